//! A line that is typed at the terminal and not shown there.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal of the process, wherever its streams lead.
const TERMINAL: &str = "/dev/tty";
const LINE_BYTES_MAX: usize = 1024;

/// A terminal that shows nothing, until this goes.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        // Signals would end the process before the terminal is as it was: what sends them comes as a character.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Nothing is to be put back of a terminal that is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ = self.terminal.write_all(b"\n");
    }
}

/// Asks for a line; nothing when there is no terminal.
pub fn hidden(prompt: &str) -> io::Result<Option<Zeroizing<String>>> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open(TERMINAL) else { return Ok(None) };
    let mut silent = Silent::new(terminal)?;
    silent.terminal.write_all(format!("{prompt}: ").as_bytes())?;
    let mut byte = [0];
    let next = || {
        loop {
            match silent.terminal.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    line(next).map(Some)
}

/// What is typed up to the end of the line, as it is after corrections.
fn line(mut next: impl FnMut() -> io::Result<Option<u8>>) -> io::Result<Zeroizing<String>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    // Not to be moved, which would leave copies.
    let mut typed = Zeroizing::new(Vec::<u8>::with_capacity(LINE_BYTES_MAX));
    loop {
        match next()? {
            Some(b'\r' | b'\n') => break,
            // Ctrl-C, Ctrl-D, or a terminal that was closed.
            Some(0x03 | 0x04) | None => return Err(wrong("cancelled")),
            // Backspace: a character, whatever its bytes.
            Some(0x08 | 0x7f) => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U.
            Some(0x15) => typed.clear(),
            Some(_) if typed.len() == LINE_BYTES_MAX => return Err(wrong("the line is too long")),
            Some(byte) => typed.push(byte),
        }
    }
    match std::str::from_utf8(&typed) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(wrong("what was typed is no UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Result<String, String> {
        let mut bytes = bytes.iter().copied();
        line(|| Ok(bytes.next())).map(|line| line.as_str().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_what_is_left_after_corrections() {
        for (bytes, line) in [
            ("hunter2\n", "hunter2"),
            ("hunter2\r", "hunter2"),
            ("hund\u{7f}ter2\n", "hunter2"),
            ("wrong\u{15}right\n", "right"),
            ("gr\u{fc}\u{7f}un\n", "grun"),
            ("\u{7f}\u{8}\n", ""),
        ] {
            assert_eq!(typed(bytes.as_bytes()).as_deref(), Ok(line));
        }
        for bytes in [&b"half"[..], b"secret\x03", b"\x04"] {
            assert_eq!(typed(bytes), Err("cancelled".to_owned()));
        }
        assert_eq!(typed(b"\xff\n"), Err("what was typed is no UTF-8".to_owned()));
        assert_eq!(typed(&[b'x'; LINE_BYTES_MAX + 1]), Err("the line is too long".to_owned()));
    }
}
