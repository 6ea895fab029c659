//! What operators do: look, drop dead letters, purge, back up, restore.

use std::path::PathBuf;

use nexum_host_ifaces::store::{DeadLetter, StateView, StoreError, StoreMsg};
use nexum_store::{Companion, Options, RestoreError, Store, restore};
use tempfile::TempDir;

use crate::harness::{Harness, directory, options, put};

#[tokio::test]
async fn dead_letters_are_listed_resolved_and_dropped() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let mut letters = Vec::new();
    for _ in 0..3 {
        let unit = module.quarantine();
        letters.push(*unit.quarantined.clone().unwrap());
        module.ledger.adopt(unit.record.clone());
        harness.commit(unit).await.unwrap();
    }
    let list = async || harness.ask(|reply| StoreMsg::DeadLetters { name: "a".into(), reply }).await.unwrap();
    assert_eq!(list().await, letters);
    let mut unit = module.unit(vec![]);
    unit.resolved = Some(2);
    harness.commit(unit).await.unwrap();
    let drop = |seq| harness.ask(move |reply| StoreMsg::DropDeadLetter { name: "a".into(), seq, reply });
    drop(1).await.unwrap();
    assert_eq!(drop(1).await, Err(StoreError::UnknownDeadLetter { module: "a".into(), seq: 1 }));
    assert_eq!(list().await, letters[2..]);
    // What a failed retry made of it takes its place; one that is gone does not come back so.
    letters[2].attempts += 1;
    letters[2].error = "failed again".into();
    let id = module.info.id;
    let put = |letter: DeadLetter| {
        harness.ask(move |reply| StoreMsg::PutDeadLetter { module: id, letter: Box::new(letter), reply })
    };
    put(letters[2].clone()).await.unwrap();
    assert_eq!(put(letters[0].clone()).await, Err(StoreError::UnknownDeadLetter { module: "a".into(), seq: 1 }));
    assert_eq!(list().await, letters[2..]);
    let status = ractor::call!(harness.actor, StoreMsg::Status).unwrap();
    assert_eq!(status.dead_letters.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1)]);
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.module("a").await.info.dead_letters, 1);
}

#[tokio::test]
async fn unknown_modules_are_named() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let unknown = StoreError::UnknownModule("nobody".into());
    let name = || "nobody".to_owned();
    assert_eq!(harness.ask(|reply| StoreMsg::Inspect { name: name(), reply }).await, Err(unknown.clone()));
    assert_eq!(harness.ask(|reply| StoreMsg::Purge { name: name(), reply }).await, Err(unknown.clone()));
    let get = harness.ask(|reply| StoreMsg::StateGet { name: name(), key: "k".into(), reply }).await;
    assert_eq!(get, Err(unknown));
}

#[tokio::test]
async fn a_purge_removes_everything_and_the_number_is_not_used_again() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut kept = harness.module("kept").await;
    let mut module = harness.module("a").await;
    let mut last = harness.module("last").await;
    for module in [&mut kept, &mut module, &mut last] {
        harness.handle(module, vec![put("k", "v", None)]).await;
    }
    harness.commit(module.quarantine()).await.unwrap();
    harness.ask(|reply| StoreMsg::Purge { name: "a".into(), reply }).await.unwrap();

    let names = |harness: &Harness| harness.store.modules().unwrap().into_iter().map(|m| m.name).collect::<Vec<_>>();
    assert_eq!(names(&harness), ["kept", "last"]);
    assert_eq!(harness.store.get(module.info.id, "k").unwrap(), None);
    assert_eq!(harness.store.journal(module.info.id, 0, 9).unwrap(), []);
    let late = harness.commit(module.unit(vec![])).await.unwrap_err();
    assert_eq!(late, StoreError::UnknownModule(format!("#{}", module.info.id.0)));
    for module in [&kept, &last] {
        assert_eq!(harness.store.get(module.info.id, "k").unwrap(), Some(b"v".to_vec()));
    }
    harness.ask(|reply| StoreMsg::Purge { name: "last".into(), reply }).await.unwrap();
    harness.close().await;

    let harness = Harness::open(directory.path()).await;
    assert_eq!(names(&harness), ["kept"]);
    let again = harness.module("a").await.info;
    assert!(again.id > last.info.id);
    assert_eq!((again.record.seq, again.dead_letters), (0, 0));
}

#[tokio::test]
async fn state_is_read_by_name() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("order:1", "x", None), put("order:2", "y", None), put("z", "", None)]).await;
    let list = |prefix: &str, after: Option<&str>| {
        let (name, prefix, after) = ("a".to_owned(), prefix.to_owned(), after.map(str::to_owned));
        harness.ask(move |reply| StoreMsg::StateList { name, prefix, after, limit: 10, reply })
    };
    assert_eq!(list("order:", Some("order:1")).await.unwrap(), [("order:2".to_owned(), b"y".to_vec())]);
    assert_eq!(list("", None).await.unwrap().len(), 3);
    let get = harness.ask(|reply| StoreMsg::StateGet { name: "a".into(), key: "order:1".into(), reply }).await;
    assert_eq!(get.unwrap(), Some(b"x".to_vec()));
    // The same without an engine, and beside one.
    let beside = Store::open_read_only(directory.path(), &options()).unwrap();
    assert_eq!(beside.get(beside.id("a").unwrap(), "order:1").unwrap(), Some(b"x".to_vec()));
}

#[tokio::test]
async fn a_backup_of_a_running_store_restores_to_what_it_was() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("k", "then", None)]).await;
    let then = module.ledger.record.clone();
    let to = elsewhere.path().join("backup");
    // What a killed backup left, or somebody named so, is not in the way and stays.
    let others = ["backup.partial/x", "backup.partial-0/x"].map(|name| elsewhere.path().join(name));
    others.iter().for_each(|other| std::fs::create_dir_all(other).unwrap());
    let backup = |to: std::path::PathBuf| harness.ask(move |reply| StoreMsg::Backup { to, reply });
    backup(to.clone()).await.unwrap();
    assert!(others.iter().all(|other| other.exists()));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 3, "no draft is left");
    harness.handle(&mut module, vec![put("k", "later", Some("then"))]).await;

    let again = backup(to.clone()).await.unwrap_err().to_string();
    assert!(again.ends_with("backup: it exists already"), "{again}");
    let nowhere = backup(elsewhere.path().join("no/parent")).await.unwrap_err().to_string();
    assert!(nowhere.ends_with("its parent directory does not exist"), "{nowhere}");

    let target = elsewhere.path().join("deep/restored");
    restore(&to, &target, &options()).unwrap();
    let restored = Harness::open(&target).await;
    let copy = restored.module("a").await;
    assert_eq!(copy.info.record, then);
    assert_eq!(restored.store.get(copy.info.id, "k").unwrap(), Some(b"then".to_vec()));
    assert_eq!(harness.store.get(module.info.id, "k").unwrap(), Some(b"later".to_vec()));

    let refused = restore(&to, &target, &options()).unwrap_err();
    assert!(matches!(refused, RestoreError::TargetNotEmpty(path) if path == target));
}

/// A slash behind the name of a directory, as shells complete it.
#[tokio::test]
async fn a_slash_at_the_end_of_a_path_changes_nothing() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let [backup, target] = ["backup/", "target/"].map(|name| elsewhere.path().join(name));
    let to = backup.clone();
    harness.ask(|reply| StoreMsg::Backup { to, reply }).await.unwrap();
    restore(&backup, &target, &options()).unwrap();
    Harness::open(&target).await.close().await;
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 2, "no draft is left");
    std::os::unix::fs::symlink(&target, elsewhere.path().join("link")).unwrap();
    let refused = restore(&backup, &elsewhere.path().join("link/"), &options()).unwrap_err();
    assert!(matches!(refused, RestoreError::TargetIsLink(_)), "{refused}");
}

fn companion(file: PathBuf) -> Companion {
    let check = |text: &[u8]| match text {
        b"damaged" => Err("it is damaged".to_owned()),
        _ => Ok(()),
    };
    Companion { file, absent: b"nothing", check }
}

#[tokio::test]
async fn a_backup_with_a_damaged_companion_is_not_restored() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let backup = elsewhere.path().join("backup");
    let to = backup.clone();
    harness.ask(|reply| StoreMsg::Backup { to, reply }).await.unwrap();
    std::fs::write(backup.join("beside.json"), "damaged").unwrap();
    let (target, file) = (elsewhere.path().join("target"), elsewhere.path().join("beside.json"));
    let with = Options { companions: vec![companion(file.clone())], ..options() };
    let refused = restore(&backup, &target, &with).unwrap_err().to_string();
    assert_eq!(refused, format!("the backup cannot be used: {}: it is damaged", backup.join("beside.json").display()));
    assert!(!target.exists() && !file.exists() && !nexum_store::remains(&target).exists());
}

#[tokio::test]
async fn a_companion_that_never_ends_is_not_read() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let backup = elsewhere.path().join("backup");
    let to = backup.clone();
    harness.ask(|reply| StoreMsg::Backup { to, reply }).await.unwrap();
    let (target, beside) = (elsewhere.path().join("target"), backup.join("beside.json"));
    let with = Options { companions: vec![companion(elsewhere.path().join("beside.json"))], ..options() };
    let refusal = || restore(&backup, &target, &with).unwrap_err().to_string();
    std::fs::File::create(&beside).unwrap().set_len(1 << 40).unwrap();
    assert!(refusal().ends_with("is larger than 67108864 bytes: expected at most as much"), "{}", refusal());
    std::fs::remove_file(&beside).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&beside).status().unwrap().success());
    assert!(refusal().ends_with("it is a pipe, expected a file"), "{}", refusal());
    assert!(!target.exists());
}

#[tokio::test]
async fn a_backup_takes_its_companions_along_and_a_restore_puts_them_back() {
    let (directory, elsewhere) = (directory(), directory());
    let place = |directory: &TempDir| directory.path().join("beside.json");
    let with = |file: PathBuf| Options { companions: vec![companion(file)], ..options() };
    let harness = Harness::open_with(&directory.path().join("store"), &with(place(&directory))).await;
    let backup = async |name: &str| {
        let to = directory.path().join(name);
        let into = to.clone();
        harness.ask(move |reply| StoreMsg::Backup { to: into, reply }).await.unwrap();
        to
    };
    let without = backup("without").await;
    std::fs::write(place(&directory), "then").unwrap();
    let then = backup("then").await;
    std::fs::write(place(&directory), "later").unwrap();
    // Read as any store is.
    Store::open_read_only(&then, &options()).unwrap();

    for (number, (backup, kept)) in [(then, "then"), (without, "nothing")].into_iter().enumerate() {
        std::fs::write(place(&elsewhere), "of another past").unwrap();
        let target = elsewhere.path().join(format!("store{number}"));
        restore(&backup, &target, &with(place(&elsewhere))).unwrap();
        assert_eq!(std::fs::read_to_string(place(&elsewhere)).unwrap(), kept);
        assert!(!target.join("beside.json").exists());
        Harness::open(&target).await.close().await;
    }
    // As somebody copied it who took nothing along: what is there stays.
    let alone = backup("alone").await;
    std::fs::remove_file(alone.join("beside.json")).unwrap();
    restore(&alone, &elsewhere.path().join("store2"), &with(place(&elsewhere))).unwrap();
    assert_eq!(std::fs::read_to_string(place(&elsewhere)).unwrap(), "nothing");
}

#[tokio::test]
async fn no_backup_is_made_where_the_engine_keeps_its_own() {
    let directory = directory();
    let (store, file) = (directory.path().join("store"), directory.path().join("beside.json"));
    let cache = directory.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let companions = vec![companion(file.clone())];
    let options = Options { companions, reserved: vec![cache.clone()], ..options() };
    let harness = Harness::open_with(&store, &options).await;
    let backup = |to: PathBuf| harness.ask(move |reply| StoreMsg::Backup { to, reply });
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    let restoring = directory.path().join("store.restoring");
    for to in [store.join("copy"), link.join("copy"), cache.join("copy"), file, restoring] {
        let refused = backup(to.clone()).await.unwrap_err().to_string();
        assert!(refused.ends_with("is the engine's own: expected another place"), "{refused}");
        assert!(!to.exists());
    }
    backup(directory.path().join("store.before")).await.unwrap();
}

#[tokio::test]
async fn what_a_restore_left_that_was_cut_short_stays_until_one_is_done() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let backup = elsewhere.path().join("backup");
    let to = backup.clone();
    harness.ask(|reply| StoreMsg::Backup { to, reply }).await.unwrap();
    let (target, remains) = (elsewhere.path().join("store"), elsewhere.path().join("store.restoring"));
    assert_eq!(nexum_store::remains(&target), remains);
    std::fs::create_dir(&remains).unwrap();
    std::fs::write(remains.join("000007.sst"), "half").unwrap();
    let refused = |from: &std::path::Path| restore(from, &target, &options()).unwrap_err();
    assert!(matches!(refused(&elsewhere.path().join("nothing")), RestoreError::Backup(_)));
    assert!(matches!(refused(&remains), RestoreError::Remains(_)));
    assert!(remains.join("000007.sst").exists());

    // What a restore makes no directory in place of is refused before anything is put back.
    std::os::unix::fs::symlink(elsewhere.path().join("nowhere"), &target).unwrap();
    let companions = vec![companion(elsewhere.path().join("beside.json"))];
    std::fs::write(backup.join("beside.json"), "then").unwrap();
    let with = Options { companions, ..options() };
    assert!(matches!(restore(&backup, &target, &with), Err(RestoreError::TargetIsLink(_))));
    assert!(!elsewhere.path().join("beside.json").exists());
    std::fs::remove_file(&target).unwrap();

    restore(&backup, &target, &with).unwrap();
    assert!(!remains.exists() && !target.join("000007.sst").exists());
    Harness::open(&target).await.close().await;
}

#[tokio::test]
async fn a_damaged_backup_is_not_restored() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("k", &"v".repeat(10_000), None)]).await;
    let backup = elsewhere.path().join("backup");
    let to = backup.clone();
    harness.ask(|reply| StoreMsg::Backup { to, reply }).await.unwrap();
    let refused = |from: &std::path::Path| {
        let target = elsewhere.path().join("target");
        let error = restore(from, &target, &options()).unwrap_err().to_string();
        assert!(!target.exists() && !elsewhere.path().join("target.restoring").exists());
        error
    };
    let missing = refused(&elsewhere.path().join("nothing"));
    assert!(missing.starts_with("the backup cannot be used: there is no store in "), "{missing}");
    let largest = std::fs::read_dir(&backup)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    bytes[20] ^= 0xff;
    std::fs::remove_file(&largest).unwrap();
    std::fs::write(&largest, bytes).unwrap();
    let damaged = refused(&backup);
    assert!(damaged.contains("is damaged"), "{damaged}");
}
