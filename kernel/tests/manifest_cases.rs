//! Every folder of `fixtures/cases/manifest` is a wrong manifest with the one line it must give. `NEXUM_BLESS=1` writes
//! the lines anew, for review.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{fs, path::Path, sync::Arc};

use nexum_host_ifaces::cron::ScheduleCheck;
use nexum_kernel::manifest::Manifest;

#[test]
fn every_wrong_manifest_gives_its_error() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/manifest");
    #[allow(clippy::disallowed_methods, reason = "set by whoever reviews the cases")]
    let bless = std::env::var("NEXUM_BLESS").is_ok();
    let mut folders: Vec<_> = fs::read_dir(&cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 30);
    let any_schedule: ScheduleCheck = Arc::new(|_| Ok(()));
    let mut wrong = Vec::new();
    for folder in folders {
        let text = fs::read_to_string(folder.join("nexum.toml")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let found = match Manifest::parse(&text, Path::new("nexum.toml"), &any_schedule) {
            Ok(_) => "it was accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        let file = folder.join("error.txt");
        if bless {
            fs::write(&file, format!("{found}\n")).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if expected.trim_end() != found || found.lines().count() != 1 {
            wrong.push(format!("{name}:\n  expected {}\n  found    {found}", expected.trim_end()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
