//! Bad environments: every one has a clear message and changes nothing.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nexum_host_ifaces::store::{StateView, StoreMsg};
use nexum_store::{OpenError, Store};
use tempfile::TempDir;

use crate::{
    crash::{child, child_directory},
    harness::{Harness, directory, options, put},
};

fn refusal(directory: &Path) -> OpenError {
    match Store::open(directory, &options()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// A closed store with a table of about a megabyte.
async fn filled() -> TempDir {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    for index in 0..20 {
        let value: String = (0..50_000u32).map(|i| char::from(b'a' + ((i * i + index) % 26) as u8)).collect();
        harness.handle(&mut module, vec![put(&format!("key-{index}"), &value, None)]).await;
    }
    // A backup flushes what is in memory into tables.
    let to = elsewhere.path().join("flushed");
    harness.ask(|reply| StoreMsg::Backup { to: to.clone(), reply }).await.unwrap();
    std::fs::remove_dir_all(to).unwrap();
    harness.close().await;
    directory
}

fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains(suffix)).collect();
    files.sort_by_key(|path| path.metadata().unwrap().len());
    files
}

/// Turns over the bytes at `at`, which may be counted from the end.
fn corrupt(file: &Path, at: SeekFrom, len: usize) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let position = file.seek(at).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    file.seek(SeekFrom::Start(position)).unwrap();
    file.write_all(&bytes).unwrap();
}

#[tokio::test]
async fn a_second_engine_on_the_same_directory_is_refused() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let error = refusal(directory.path());
    assert_eq!(error.to_string(), format!("another nexum engine uses {}", directory.path().display()));
    let output = child("damage::child_opens", directory.path()).output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("refused: another nexum engine uses "), "{output}");
    harness.close().await;
    Harness::open(directory.path()).await;
}

/// Not a test of its own: another process that opens the store and commits until it cannot.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn child_opens() {
    let Some(directory) = child_directory() else { return };
    let store = match Store::open(&directory, &options()) {
        Ok(store) => store,
        Err(error) => return println!("refused: {error}"),
    };
    let harness = Harness::start(store).await;
    let mut module = harness.module("a").await;
    let value = "x".repeat(10_000);
    let mut refused = None;
    for _ in 0..1_000 {
        let seq = module.ledger.record.seq + 1;
        let unit = module.unit(vec![put(&format!("{seq:04}"), &value, None)]);
        let record = unit.record.clone();
        match harness.commit(unit).await {
            Ok(()) => module.ledger.adopt(record),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    println!("committed {} units, then {refused:?}", module.ledger.record.seq);
    let stored = harness.store.inspect("a").unwrap().record;
    assert_eq!(stored, module.ledger.record, "nothing of the refused unit is visible");
}

#[tokio::test]
async fn a_write_that_fails_is_refused_whole_and_what_was_acknowledged_stays() {
    let directory = directory();
    // Files may not grow past 1 MiB, which the log meets after about a hundred units.
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let command = child("damage::child_opens", directory.path());
    let output = Command::new("sh")
        .args(["-c", limited, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = output.split("committed ").nth(1).unwrap_or_else(|| panic!("{output}"));
    let (committed, error) = report.split_once(" units, then ").unwrap();
    let committed: u64 = committed.parse().unwrap();
    assert!(error.contains("File too large"), "{error}");
    assert!(committed > 10 && !output.contains("FAILED"), "{output}");
    let harness = Harness::open(directory.path()).await;
    let info = harness.store.inspect("a").unwrap();
    assert_eq!(info.record.seq, committed);
    assert_eq!(harness.store.scan(info.id, "", None, usize::MAX).unwrap().len() as u64, committed);
}

#[tokio::test]
async fn an_older_format_is_refused_and_not_touched() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("key", "value", None)]).await;
    harness.close().await;
    // Puts a format in the place of the one that is there, which is answered.
    let replace = |format: u16| {
        let families = ["default", "state", "events", "recordings"];
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), directory.path(), families).unwrap();
        let found = db.get(b"m/format").unwrap().unwrap();
        db.put(b"m/format", format.to_be_bytes()).unwrap();
        u16::from_be_bytes(found.try_into().unwrap())
    };
    assert_eq!(replace(4), 5);
    let expected = format!(
        "{} was written by an older nexum (store format 4, this one reads none before 5): run the version that wrote it, \
         or start with an empty state directory",
        directory.path().display()
    );
    assert_eq!(refusal(directory.path()).to_string(), expected);
    let read_only = Store::open_read_only(directory.path(), &options()).err().unwrap();
    assert_eq!(read_only.to_string(), expected);
    assert_eq!(replace(5), 4, "it is what it was");
    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.store.get(module.info.id, "key").unwrap(), Some(b"value".to_vec()));
    harness.close().await;
}

#[tokio::test]
async fn a_newer_format_is_refused_and_not_touched() {
    let directory = directory();
    Harness::open(directory.path()).await.close().await;
    let plain = rocksdb::Options::default();
    let db = rocksdb::DB::open_cf(&plain, directory.path(), ["default", "state", "events", "recordings"]).unwrap();
    db.put(b"m/format", u16::MAX.to_be_bytes()).unwrap();
    drop(db);
    let newer = |error: OpenError| {
        let expected = format!("{} was written by a newer nexum (store format 65535,", directory.path().display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    };
    newer(refusal(directory.path()));
    newer(Store::open_read_only(directory.path(), &options()).err().unwrap());
    // A newer one may have column families that this one does not know.
    let mut create = rocksdb::Options::default();
    create.create_missing_column_families(true);
    drop(
        rocksdb::DB::open_cf(&create, directory.path(), ["default", "state", "events", "recordings", "timers"])
            .unwrap(),
    );
    newer(refusal(directory.path()));
}

#[tokio::test]
async fn another_database_is_not_taken_for_a_store() {
    let directory = directory();
    let mut create = rocksdb::Options::default();
    create.create_if_missing(true);
    let db = rocksdb::DB::open(&create, directory.path()).unwrap();
    db.put(b"something", b"else").unwrap();
    drop(db);
    let error = refusal(directory.path()).to_string();
    assert!(error.contains("holds something that is not a nexum store"), "{error}");
}

#[tokio::test]
async fn damaged_files_are_named() {
    let damaged = |directory: &Path| {
        let error = refusal(directory);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().ends_with("Move it away and restore a backup"), "{error}");
        error.to_string()
    };
    let store = filled().await;
    corrupt(files(store.path(), "MANIFEST").last().unwrap(), SeekFrom::Start(20), 8);
    damaged(store.path());

    let store = filled().await;
    std::fs::remove_file(store.path().join("CURRENT")).unwrap();
    assert!(damaged(store.path()).contains("the file CURRENT is missing"));

    let store = filled().await;
    std::fs::remove_file(files(store.path(), ".sst").last().unwrap()).unwrap();
    assert!(damaged(store.path()).contains(".sst"));

    let store = filled().await;
    corrupt(files(store.path(), ".sst").last().unwrap(), SeekFrom::End(-40), 40);
    assert!(damaged(store.path()).contains(".sst"));
}

#[tokio::test]
async fn a_damaged_block_is_an_error_when_it_is_read_and_hurts_nobody_else() {
    let directory = filled().await;
    corrupt(files(directory.path(), ".sst").last().unwrap(), SeekFrom::Start(2_000), 8);
    let harness = Harness::open(directory.path()).await;
    let id = harness.store.id("a").unwrap();
    let (mut good, mut bad) = (0, Vec::new());
    for index in 0..20 {
        match harness.store.get(id, &format!("key-{index}")) {
            Ok(Some(_)) => good += 1,
            Ok(None) => panic!("lost without a word"),
            Err(error) => bad.push(error.to_string()),
        }
    }
    assert!(good > 10 && !bad.is_empty(), "{good} {bad:?}");
    assert!(bad[0].contains("is damaged"), "{bad:?}");
    let mut other = harness.module("b").await;
    harness.handle(&mut other, vec![put("k", "v", None)]).await;
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = refusal(&file.join("store")).to_string();
    assert!(error.starts_with(&format!("cannot write to {}/store: ", file.display())), "{error}");
    let error = refusal(&file).to_string();
    assert!(error.starts_with(&format!("cannot write to {}: ", file.display())), "{error}");
    // A file system on which even root writes nothing.
    let error = refusal(Path::new("/proc/nexum")).to_string();
    assert!(error.contains("/proc/nexum"), "{error}");
    let missing = Store::open_read_only(directory.path(), &options()).err().unwrap().to_string();
    assert_eq!(missing, format!("there is no store in {}", directory.path().display()));
}
