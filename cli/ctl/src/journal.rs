//! Where the lines of an export come from: a file, or whoever sends them.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use nexum_admin_api::{journal::Line, text};

use crate::exit::Failure;

/// A rewind's line names every receipt that it withdrew; that of a whole journal has a fraction of this.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Takes lines; `Err` ends the reading.
pub type Take<'a> = &'a mut dyn FnMut(Line) -> Result<(), Failure>;

/// Parses one line; `number` counts from 1.
pub fn parse(line: &str, number: usize) -> Result<Line, Failure> {
    Line::parse(line)
        .map_err(|error| Failure::failed(format!("line {number} is no line of a journal's export: {error}")))
}

/// What is not there says nothing about what it would hold.
fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("{} cannot be read: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(message),
        _ => Failure::failed(message),
    }
}

/// Opens a file that is there to be read.
pub fn readable(path: &Path) -> Result<File, Failure> {
    text::open_file(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            Failure::usage(format!("{} cannot be read: {error} that `journal export` wrote", path.display()))
        }
        _ => unreadable(path, &error),
    })
}

/// Reads an export that was written to a file.
pub fn file(path: &Path, take: Take<'_>) -> Result<(), Failure> {
    let mut file = BufReader::new(readable(path)?);
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        let read = (&mut file).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|error| unreadable(path, &error))? == 0 {
            return Ok(());
        }
        number += 1;
        let line = line(&bytes, number);
        take(line.map_err(|failure| Failure::failed(format!("{}: {failure}", path.display())))?)?;
    }
}

/// One line as it is read, with its end.
fn line(bytes: &[u8], number: usize) -> Result<Line, Failure> {
    if bytes.len() as u64 > LINE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "line {number} has more than {LINE_BYTES_MAX} bytes, as none of an export has"
        )));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text.trim_end_matches(['\n', '\r']), number),
        Err(_) => Err(Failure::failed(format!("line {number} is no UTF-8"))),
    }
}
