//! Texts from outside: files are read only where they are files of a bounded size, and TOML is parsed only where it nests
//! no deeper than a stack bears.

pub use nexum_records::file::{bytes, open, open_file, read};

/// A manifest. One with thousands of addresses has a tenth of it.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Tables and lists within each other, each part of a dotted key counted, at most. Whoever walks a parsed text, or drops
/// it, has a frame of the stack for each.
pub const DEPTH_MAX: usize = 32;

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
    use super::*;

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
