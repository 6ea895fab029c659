//! `journal`: what a module's units were, and whether the record of them is sound.

use std::time::Duration;

use http_body_util::BodyExt;
use nexum_admin_api::{
    journal::{
        JournalKey, JournalList, JournalUnit, Line,
        diff::{self, Side},
        verify::{Bad, Report, Verifier},
    },
    text,
};
use nexum_records::journal::Receipt;
use serde_json::json;

use super::block_on;
use crate::{
    args::{
        Output,
        journal::{Journal, Verify},
    },
    client::{Client, part},
    exit::Failure,
    hand_on,
    journal::{self as source, Take},
    render::{self, print, print_json, print_json_line},
};

/// How often `tail --follow` asks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Entries of a page while following.
const FOLLOW_LIMIT: usize = 1000;

/// A receipt has a few hundred.
const RECEIPT_BYTES_MAX: u64 = 64 << 10;

/// Hands lines to whoever takes them, until one is refused or there is no more.
pub type Read<'a> = Box<dyn FnOnce(Take<'_>) -> Result<(), Failure> + 'a>;

/// Carries out a command that reads no store.
pub fn journal(command: Journal, output: &Output) -> Result<(), Failure> {
    match command {
        Journal::Tail { module, n, follow } => block_on(Box::pin(tail(&module, n, follow, output))),
        Journal::Show { module, seq } => block_on(Box::pin(async move {
            let unit: JournalUnit = Client::new(output)?.get(&path(&module, &format!("/{seq}"))).await?;
            match output.json {
                true => print_json(&unit),
                false => print(&render::journal::unit(&unit)),
            }
        })),
        Journal::Verify(wanted) if wanted.place.is_given() => hand_on::to_nexum(),
        Journal::Verify(wanted) => {
            let wanted = &wanted;
            verify(wanted, output, move || match &wanted.file {
                Some(file) => {
                    source::readable(file)?;
                    Ok(Box::new(move |take: Take<'_>| source::file(file, take)))
                }
                None => Ok(Box::new(move |take: Take<'_>| lines(wanted.module.as_deref(), output, take))),
            })
        }
        Journal::Export { place, .. } if place.is_given() => hand_on::to_nexum(),
        Journal::Export { module, .. } => lines(Some(&module), output, &mut print_line),
        Journal::Diff { a, b } => {
            let compared = diff::compare(&side(&a)?, &side(&b)?);
            match output.json {
                true => print_json(&compared)?,
                false => print(&render::journal::comparison(&compared))?,
            }
            if compared.is_equal() { Ok(()) } else { Err(Failure::failed("")) }
        }
        Journal::Key => block_on(Box::pin(async move {
            let found: JournalKey = Client::new(output)?.get("/v1/journal/key").await?;
            match (output.json, found.key) {
                (true, _) => print_json(&found),
                (false, Some(key)) => print(&format!("{key}\n")),
                (false, None) => Err(Failure::failed("the engine signs nothing: [journal] receipts = false")),
            }
        })),
    }
}

fn path(module: &str, rest: &str) -> String {
    format!("/v1/modules/{}/journal{rest}", part(module))
}

async fn tail(module: &str, n: u16, follow: bool, output: &Output) -> Result<(), Failure> {
    let client = Client::new(output)?;
    let mut list: JournalList = client.get(&path(module, &format!("?limit={n}"))).await?;
    let mut rewinds = list.rewinds;
    let mut headed = false;
    loop {
        if output.json && !follow {
            return print_json(&list);
        }
        if output.json {
            for entry in &list.entries {
                print_json_line(entry)?;
            }
        } else {
            print(&render::journal::entries(&list.entries, !std::mem::replace(&mut headed, true)))?;
        }
        if !follow {
            return Ok(());
        }
        let next = list.entries.last().map_or(list.newest, |entry| entry.entry.seq) + 1;
        list = loop {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
            let more: JournalList = client.get(&path(module, &format!("?from={next}&limit={FOLLOW_LIMIT}"))).await?;
            if more.rewinds != rewinds {
                rewinds = more.rewinds;
                let line = match output.json {
                    true => json!({ "rewound": { "number": rewinds, "newest": more.newest } }).to_string(),
                    false => format!("… rewound; the newest unit is now {}", more.newest),
                };
                print(&format!("{line}\n"))?;
                let from = more.newest;
                break client.get(&path(module, &format!("?from={from}&limit={FOLLOW_LIMIT}"))).await?;
            }
            if !more.entries.is_empty() {
                break more;
            }
        };
    }
}

/// Prints a line of an export, which ends with the one that says why it broke off.
pub fn print_line(line: Line) -> Result<(), Failure> {
    print_json_line(&line)?;
    match line {
        Line::Broken { reason } => Err(Failure::failed(format!("the export broke off: {reason}"))),
        _ => Ok(()),
    }
}

/// Asks the engine for a journal, and reads it line by line.
fn lines(module: Option<&str>, output: &Output, take: Take<'_>) -> Result<(), Failure> {
    let Some(module) = module else { return Err(Failure::usage("which module?")) };
    // The lines must not cross threads, as the runtime has one alone.
    let mut collected = Vec::new();
    let into = &mut collected;
    block_on(Box::pin(async move {
        let mut body = Client::new(output)?.stream(&path(module, "/export")).await?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::unreachable(format!("the engine broke off: {error}")))?;
            into.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        Ok(())
    }))?;
    let text = String::from_utf8_lossy(&collected);
    text.lines().enumerate().try_for_each(|(index, line)| take(source::parse(line, index + 1)?))
}

/// An export that is sound, ready to be compared.
fn side(path: &std::path::Path) -> Result<Side, Failure> {
    let wrong = |bad: Bad| Failure::failed(format!("{} is not sound: {bad}", path.display()));
    let mut side = Side::default();
    let mut verifier = Verifier::default();
    source::file(path, &mut |line| {
        verifier.take(&line).map_err(wrong)?;
        side.take(&line);
        Ok(())
    })?;
    verifier.finish().map_err(wrong)?;
    Ok(side)
}

/// Verifies what is read from where `open` finds it.
pub fn verify<'a>(
    wanted: &Verify,
    output: &Output,
    open: impl FnOnce() -> Result<Read<'a>, Failure>,
) -> Result<(), Failure> {
    let claim = match &wanted.receipt {
        Some(path) => {
            let wrong = |error: String| Failure::usage(format!("--receipt {}: {error}", path.display()));
            let text = text::read(path, RECEIPT_BYTES_MAX).map_err(wrong)?;
            Some(serde_json::from_str::<Receipt>(&text).map_err(|error| wrong(error.to_string()))?)
        }
        None => None,
    };
    // What cannot be opened is no finding about the journal: only what was read can be unsound.
    let read = open()?;
    let mut verifier = Verifier::new(wanted.key, claim);
    let mut found: Option<Bad> = None;
    let mut take = |line: Line| {
        verifier.take(&line).map_err(|bad| {
            found = Some(bad);
            Failure::failed("")
        })
    };
    let read = read(&mut take);
    let verdict: Result<Report, Bad> = match (found, read) {
        (Some(bad), _) => Err(bad),
        (None, Ok(())) => verifier.finish(),
        (None, Err(failure)) if failure.code == 1 => Err(Bad { seq: None, why: failure.message }),
        (None, Err(failure)) => return Err(failure),
    };
    match (verdict, output.json) {
        (Ok(report), true) => print_json(&json!({ "sound": true, "report": report })),
        (Ok(report), false) => print(&render::journal::report(&report)),
        (Err(bad), true) => {
            print_json(&json!({ "sound": false, "bad": bad }))?;
            Err(Failure::failed(""))
        }
        (Err(bad), false) => Err(Failure::failed(format!("the journal is not sound: {bad}"))),
    }
}
