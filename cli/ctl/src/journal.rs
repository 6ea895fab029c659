//! Where the lines of an export come from: a file, or whoever sends them.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use nexum_admin_api::journal::Line;

use crate::exit::Failure;

/// Takes lines; `Err` ends the reading.
pub type Take<'a> = &'a mut dyn FnMut(Line) -> Result<(), Failure>;

/// Parses one line; `number` counts from 1.
pub fn parse(line: &str, number: usize) -> Result<Line, Failure> {
    serde_json::from_str(line)
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
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("{} is a directory: expected a file that `journal export` wrote", path.display());
            Err(Failure::usage(message))
        }
        Ok(_) => Ok(file),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads an export that was written to a file.
pub fn file(path: &Path, take: Take<'_>) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| unreadable(path, &error);
    let file = readable(path)?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = parse(&line.map_err(wrong)?, index + 1);
        take(line.map_err(|failure| Failure::failed(format!("{}: {failure}", path.display())))?)?;
    }
    Ok(())
}
