//! `journal verify` and `journal export` of a store that no engine need run on.

use nexum_ctl::{
    command::journal::{self as client, Read, print_line},
    journal::Take,
};

use crate::{
    args::{
        Output,
        journal::{Journal, Place, Verify},
    },
    exit::Failure,
    journal::source,
};

pub(super) fn journal(command: Journal, output: &Output) -> Result<(), Failure> {
    match command {
        Journal::Verify(wanted) if wanted.place.is_given() => verify(&wanted, output),
        Journal::Export { module, place } if place.is_given() => export(&module, &place),
        command => client::journal(command, output),
    }
}

/// Opens the store that is given; what it says of the module is read later.
fn opened<'a>(module: Option<&'a str>, place: &Place) -> Result<Read<'a>, Failure> {
    let (Some(module), Some(directory)) = (module, source::place(place)) else {
        return Err(Failure::usage("which module, and where?"));
    };
    let store = source::open(&directory)?;
    Ok(Box::new(move |take: Take<'_>| source::store(&store, module, take)))
}

fn verify(wanted: &Verify, output: &Output) -> Result<(), Failure> {
    client::verify(wanted, output, || opened(wanted.module.as_deref(), &wanted.place))
}

fn export(module: &str, place: &Place) -> Result<(), Failure> {
    let read = opened(Some(module), place)?;
    read(&mut print_line)
}
