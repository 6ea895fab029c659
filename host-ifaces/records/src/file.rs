//! Files as bytes from outside: read only where they are files, and of a bounded size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

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
}
