//! Files as bytes from outside: read only where they are files of a bounded size, and TOML parsed only where it nests no
//! deeper than a stack bears.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// A manifest. One with thousands of addresses has a tenth of it.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Tables and lists within each other, each part of a dotted key counted, at most. Whoever walks a parsed text, or drops
/// it, has a frame of the stack for each.
pub const DEPTH_MAX: usize = 32;

/// Opens a file that somebody else may have put there, such as one of a bundle, to read it. Does not wait: a pipe to which
/// nobody writes is open at once, and is seen not to be a file.
///
/// # Errors
/// Whatever the system says.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens a file to read it, and nothing that may have no end or wait for somebody: a directory, a pipe, a device.
///
/// # Errors
/// Whatever the system says, and for what is no file what it is and what is expected.
pub fn open_file(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let found = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {found}, expected a file")))
}

/// The content of a file.
///
/// # Errors
/// What is wrong with it and what would be right, without the path.
pub fn bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = open_file(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes: expected at most as much"));
    }
    Ok(bytes)
}

/// The text of a file.
///
/// # Errors
/// Those of `bytes`, and where it is not UTF-8.
pub fn read(path: &Path, bytes_max: u64) -> Result<String, String> {
    String::from_utf8(bytes(path, bytes_max)?).map_err(|error| {
        format!("cannot be read: byte {} is no UTF-8, expected text", error.utf8_error().valid_up_to() + 1)
    })
}

/// Where a TOML text nests deeper than `DEPTH_MAX`, as an offset, and what is wrong then.
///
/// It sees the tokens that the parser sees, and takes a bracket for closed only where its own kind closes it, so that it
/// rather counts too much in a text that is no TOML.
pub fn too_deep(text: &str) -> Option<(usize, String)> {
    let bytes = text.as_bytes();
    let mut open: Vec<(u8, usize)> = Vec::new();
    let (mut at, mut level, mut dots) = (0, 0, 0);
    while let Some(byte) = bytes.get(at) {
        let next = match byte {
            b'"' | b'\'' => end_of_string(bytes, at),
            b'#' => end(bytes, at, |byte| matches!(byte, b'\r' | b'\n')),
            b'.' | b'=' | b',' | b'[' | b']' | b'{' | b'}' | b' ' | b'\t' | b'\r' | b'\n' => at + 1,
            // Within a word quotes are as any other character.
            _ => end(bytes, at, |byte| b".=,[]{} \t#\r\n".contains(&byte)),
        };
        match byte {
            b'.' => dots += 1,
            b',' => dots = 0,
            b'\n' if open.is_empty() => dots = 0,
            b'[' | b'{' => {
                open.push((*byte, level));
                level += dots + 1;
                dots = 0;
            }
            b']' | b'}' => {
                let opened = if *byte == b']' { b'[' } else { b'{' };
                if let Some((_, before)) = open.pop_if(|(bracket, _)| *bracket == opened) {
                    (level, dots) = (before, 0);
                }
            }
            _ => {}
        }
        if level + dots > DEPTH_MAX {
            return Some((at, format!("tables and lists within each other: expected at most {DEPTH_MAX}")));
        }
        at = next;
    }
    None
}

/// The first offset from `at` on where a byte ends what is there.
fn end(bytes: &[u8], at: usize, ends: impl Fn(u8) -> bool) -> usize {
    bytes[at..].iter().position(|byte| ends(*byte)).map_or(bytes.len(), |length| at + length)
}

/// The offset behind the string that begins at `at`. One without its end goes to the end of its line, or of the text when
/// it may have many lines.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let long = bytes[at..].starts_with(&[quote; 3]);
    let mut at = at + if long { 3 } else { 1 };
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if quote == b'"' => at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'\\' | b'"'))),
            byte if *byte == quote && !long => return at + 1,
            byte if *byte == quote && bytes[at..].starts_with(&[quote; 3]) => {
                // Two more are of the string.
                return at + 3 + bytes[at + 3..].iter().take(2).take_while(|byte| **byte == quote).count();
            }
            b'\n' if !long => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn only_files_of_a_bounded_size_are_read_and_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let wrong = |name: &str| read(&path(name), 8).unwrap_err();
        fs::write(path("fits"), "12345678").unwrap();
        assert_eq!(read(&path("fits"), 8).as_deref(), Ok("12345678"));
        fs::write(path("large"), "123456789").unwrap();
        assert_eq!(wrong("large"), "is larger than 8 bytes: expected at most as much");
        fs::write(path("bytes"), b"ab\xff").unwrap();
        assert_eq!(wrong("bytes"), "cannot be read: byte 3 is no UTF-8, expected text");
        fs::create_dir(path("directory")).unwrap();
        assert_eq!(wrong("directory"), "cannot be read: it is a directory, expected a file");
        symlink("/dev/zero", path("endless")).unwrap();
        assert_eq!(wrong("endless"), "cannot be read: it is a device, expected a file");
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        assert_eq!(wrong("pipe"), "cannot be read: it is a pipe, expected a file");
        symlink("nowhere", path("broken")).unwrap();
        assert!(wrong("broken").starts_with("cannot be read: No such file"), "{}", wrong("broken"));
    }

    #[test]
    fn what_nests_too_deep_for_a_stack_is_found() {
        let deep = |open: &str, close: &str, count: usize| format!("x = {}{}", open.repeat(count), close.repeat(count));
        for (text, last) in [
            (deep("[", "]", DEPTH_MAX), deep("[", "]", DEPTH_MAX + 1)),
            (deep("{a=", "}", DEPTH_MAX), deep("{a=", "}", DEPTH_MAX + 1)),
            (format!("a{} = 1", ".a".repeat(DEPTH_MAX)), format!("a{} = 1", ".a".repeat(DEPTH_MAX + 1))),
            (format!("[a{}]", ".a".repeat(DEPTH_MAX - 1)), format!("[a{}]", ".a".repeat(DEPTH_MAX))),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
            assert!(too_deep(&last).is_some(), "{last}");
        }
        let mixed = format!("x = {}1{}", "{a.b.c = [".repeat(9), "]}".repeat(9));
        assert!(too_deep(&mixed).is_some());
        // The parser goes on behind each of these, so that what nests there counts.
        for hidden in ["a\"", "a'", "'''\n'''", "\"\\\" \" ", "# \"\n", "]", "}"] {
            let text = format!("x = {hidden}{}", "[{a.a = ".repeat(40));
            assert!(too_deep(&text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_no_nesting_does_not_count() {
        let many = "[[[[{{{{....".repeat(20);
        for text in [
            format!("x = \"{many}\""),
            format!("x = '{many}'"),
            format!("x = \"\"\"\n{many}\n\\\"\"\"{many}\"\"\"\"\""),
            format!("x = '''\n{many}'''''"),
            format!("# {many}"),
            "x = [1.5, 2.5]\n".repeat(100),
            "[[a.b]]\nc.d = { e = 1 }\n".repeat(100),
            format!("x = [{}]", "[1.5, \"a.b\"],\n".repeat(100)),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
        }
    }
}
