//! Modules that use a library: it has access and a credential, and they have not.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use super::{
    crashes::{handled_block, replay, state},
    engine::{EGRESS, Engine, FAST_CHAIN, FROM_THE_FIRST, Setup, bundle, eventually, path},
};

const KEY: &str = "k3y-of-the-order-book-62951413";

/// An order book that knows who may place orders, and the orders that it has.
#[derive(Default)]
struct Book {
    placed: Vec<String>,
    duplicates: usize,
    /// Requests that nobody with a key sent.
    refused: usize,
}

impl Book {
    /// The status and the body of the answer to an order; none when the answer is lost.
    fn take(&mut self, head: &[String], body: String) -> Option<(u16, String)> {
        let is_order = head.first().is_some_and(|line| line.starts_with("POST /local/api/v1/orders HTTP"));
        if !is_order || !head.iter().any(|line| *line == format!("x-api-key: {KEY}")) {
            self.refused += 1;
            return Some((403, "{}".to_owned()));
        }
        if self.placed.contains(&body) {
            self.duplicates += 1;
            return Some((400, r#"{"errorType":"DuplicatedOrder","description":"order already exists"}"#.to_owned()));
        }
        self.placed.push(body);
        let number = self.placed.len();
        (number != 3).then(|| (201, format!("\"0x{number:0112}\"")))
    }
}

fn request(stream: &TcpStream) -> Option<(Vec<String>, String)> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    // An engine that was killed does not end what it says.
    loop {
        match stream.by_ref().lines().next()?.ok()? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

fn order_book() -> (String, Arc<Mutex<Book>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let book: Arc<Mutex<Book>> = Arc::default();
    let shared = book.clone();
    // It ends with the process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Some((head, body)) = request(&stream) else { continue };
            let Some((status, answer)) = shared.lock().unwrap().take(&head, body) else { continue };
            let length = answer.len();
            // A client that has gone does not hear it.
            let _ =
                write!(stream, "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}");
        }
    });
    (url, book)
}

/// Changes a file.
fn change(file: &Path, edit: impl FnOnce(&str) -> String) {
    let text = fs::read_to_string(file).unwrap();
    let changed = edit(&text);
    assert_ne!(text, changed, "{}", path(file));
    fs::write(file, changed).unwrap();
}

/// With the library, for an order book at this URL.
fn with_library(setup: Setup, url: &str) -> Setup {
    let base = format!("base_url = \"{url}\"");
    let changes = [
        ("allow = [\"api.cow.fi\"]", "allow = [\"127.0.0.1\"]"),
        ("base_url = \"https://api.cow.fi\"", base.as_str()),
        ("\"1=mainnet\"", "\"31337=local\""),
    ];
    let library = setup.write_bundle("cow", "cow", &changes);
    setup.with(&format!("[[libraries]]\nsource = \"{}\"\n", path(&library)))
}

fn module(setup: Setup) -> Setup {
    setup.module("cow-dca", "cow-dca", &[FROM_THE_FIRST, ("every = 7_200", "every = 1")])
}

/// The hash of the library as modules name it.
fn library_hash() -> String {
    let manifest = fs::read_to_string(bundle("cow").join("nexum.toml")).unwrap();
    let line = manifest.lines().find(|line| line.starts_with("component = ")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

fn with_credential(setup: Setup) -> Setup {
    let credential = "[[egress.credentials]]\nhosts = [\"127.0.0.1\"]\nmodules = [\"library:cow\"]\n\
                      value = \"file:key\"\nheader = \"X-API-Key\"\nallow_http = true\n";
    let file = setup.dir.path().join("key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    setup.egress(&format!("{EGRESS}{credential}"))
}

fn uids(engine: &Engine) -> Vec<String> {
    engine.state("cow-dca", "o/").into_iter().map(|(_, uid)| uid.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_module_places_orders_through_a_library_that_has_the_key_also_when_the_engine_is_killed() {
    let (url, book) = order_book();
    let setup = with_credential(Setup::new().mock(31337, FAST_CHAIN).with("[journal]\nrecord = \"all\""));
    let setup = module(with_library(setup, &url)).module("recorder", "recorder", &[FROM_THE_FIRST]);
    let mut engine = setup.start();
    for round in 1..=3 {
        let wanted = round * 5;
        eventually("orders are placed", || match uids(&engine).len() {
            enough if enough >= wanted => Ok(()),
            _ => Err(engine.ctl(&["tree"])),
        });
        engine.kill9();
        engine.launch();
    }
    let seq = handled_block(&engine, "cow-dca");
    engine.module_until("recorder", "runs without the library", |node| node["events_processed"].as_u64() > Some(3));
    engine.ctl(&["module", "pause", "cow-dca"]);

    let node = engine.module("cow-dca");
    let library = &node["children"][0];
    assert_eq!((&library["kind"], &library["name"]), (&"library".into(), &"cow".into()), "{node:#}");
    let summary = library["summary"].as_str().unwrap();
    assert!(summary.contains(&library_hash()) && summary.contains("host `127.0.0.1`"), "{summary}");
    assert_eq!(engine.module("recorder")["children"], serde_json::json!([]));

    // Each block has its order, once, whatever was lost or killed in between.
    let placed = uids(&engine);
    let cursor: usize = node["cursors"]["chain:31337"].as_str().unwrap().parse().unwrap();
    assert_eq!(placed.len(), cursor);
    assert!(placed.iter().all(|uid| uid.starts_with("0x") && uid.len() == 114), "{placed:?}");
    // The answer that was lost: the library knows the UID of an order that is there already.
    let owner = "f39fd6e51aad88f6f4ce6ab8827279cfffb92266";
    assert!(placed.iter().any(|uid| uid.contains(owner)), "{placed:?}");
    {
        let book = book.lock().unwrap();
        assert!(book.duplicates > 0 && book.placed.len() >= cursor, "{} of {cursor}", book.placed.len());
        assert_eq!(book.refused, 0, "the key was there each time");
    }
    let orders: [&[&str]; 4] =
        [&["tree", "--json"], &["logs"], &["state", "inspect", "cow-dca"], &["journal", "tail", "cow-dca"]];
    assert!(orders.iter().all(|order| !engine.ctl(order).contains(KEY)) && !engine.log_text().contains(KEY));
    engine.kill9();
    let (taken, known) = {
        let book = book.lock().unwrap();
        (book.placed.len(), book.duplicates)
    };
    let (code, said) = replay(&["cow-dca", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"], &said["missing"]), (0, &true.into(), &serde_json::json!([])), "{said:#}");
    let book = book.lock().unwrap();
    assert_eq!((book.placed.len(), book.duplicates), (taken, known), "the order book was asked by a replay");
}

#[test]
fn without_a_credential_for_the_library_the_order_book_refuses() {
    let (url, book) = order_book();
    let setup = with_credential(Setup::new().mock(31337, FAST_CHAIN));
    let setup = module(with_library(setup, &url));
    let mut engine = setup.prepare();
    // What is for the module is not for its library.
    change(&engine.config, |text| text.replace("library:cow", "cow-dca"));
    engine.launch();
    let node = engine.module_until("cow-dca", "was refused", |node| node["events_failed"].as_u64() > Some(0));
    let told = node["last_error"].as_str().unwrap();
    assert!(told.contains("status 403 (cow-api: denied)"), "{told}");
    assert_eq!(book.lock().unwrap().placed, Vec::<String>::new());
}

#[test]
fn a_module_that_does_not_list_the_library_cannot_import_it() {
    let (url, book) = order_book();
    let setup = with_library(with_credential(Setup::new().mock(31337, FAST_CHAIN)), &url);
    let dir = setup.write_bundle("cow-dca", "sneaky", &[FROM_THE_FIRST]);
    change(&dir.join("nexum.toml"), |text| {
        let lines = text.lines().filter(|line| *line != "[libraries.cow]" && !line.contains(&library_hash()));
        // What is left of the table is a version.
        let mut versions = 0;
        let kept = lines.filter(|line| {
            versions += usize::from(line.starts_with("version = "));
            !line.starts_with("version = ") || versions == 1
        });
        kept.collect::<Vec<_>>().join("\n")
    });
    let setup = setup.with(&format!("[[modules]]\nsource = \"{}\"\n", path(&dir)));
    let engine = module(setup).start();
    let node = engine.module_until("sneaky", "is refused", |node| node["state"] == "DEAD");
    let told = node["last_error"].as_str().unwrap();
    assert!(told.contains("imports `shepherd:cow/cow-api@0.3.0`, which is not hosted"), "{told}");
    assert!(told.contains("one of a library needs that library under [libraries]"), "{told}");
    engine.module_until("cow-dca", "runs", |node| node["events_processed"].as_u64() > Some(0));
    assert_eq!(book.lock().unwrap().refused, 0);
}

#[test]
fn a_library_that_is_missing_or_another_one_is_refused_with_what_would_be_right() {
    let hash = library_hash();
    let wanted =
        format!("library `cow` 0.3.0, {hash}, is not on this engine; [[libraries]] in the engine's configuration");
    let engine = module(Setup::new().mock(31337, FAST_CHAIN)).start();
    let told = |engine: &Engine, what: &str| {
        eventually("the module is refused", || {
            let tree = engine.json(&["tree"]).to_string();
            if tree.contains(what) { Ok(()) } else { Err(format!("{what}\n{tree}")) }
        });
    };
    told(&engine, &format!("{wanted} has none"));

    let setup = with_library(Setup::new().mock(31337, FAST_CHAIN), "http://127.0.0.1:9");
    let other = format!("sha256:{}", "7".repeat(64));
    let changes = [(hash.as_str(), other.as_str())];
    let engine = setup.module("cow-dca", "cow-dca", &changes).start();
    told(&engine, &format!("library `cow` 0.3.0, {other}, is not on this engine"));
    told(&engine, &format!("has cow 0.3.0, {hash}, in "));

    let misconfigured = "[libraries.config]\nnetworks = [\"nonsense\"]\n";
    let setup = with_library(Setup::new().mock(31337, FAST_CHAIN), "http://127.0.0.1:9").with(misconfigured);
    let engine = module(setup).start();
    told(&engine, "library `cow`: trap in start: init failed: [config] networks: expected entries such as");
}

#[test]
fn a_library_has_state_of_its_own_and_what_it_does_wrong_has_its_name() {
    let with_probe = |mode: &str| {
        let setup = Setup::new().mock(31337, FAST_CHAIN);
        let setup = setup.with(&format!("[[libraries]]\nsource = \"{}\"\n", path(&bundle("probe"))));
        let mode = format!("mode = \"{mode}\"");
        setup.module("probing", "probing", &[FROM_THE_FIRST, ("mode = \"state\"", &mode)]).start()
    };
    let engine = with_probe("state");
    engine.module_until("probing", "counted", |node| node["events_processed"].as_u64() > Some(5));
    engine.ctl(&["module", "pause", "probing"]);
    let seen = engine.state_value("probing", "seen").unwrap();
    let number = seen["number"].as_u64().unwrap();
    // One event unit has the writes of both.
    assert_eq!(seen["counted"].as_u64(), Some(number), "{seen:#}");
    assert_eq!(engine.state_value("probing", "count"), Some((1_000 + number).into()));
    assert_eq!(seen["of_library"], serde_json::json!(["count"]), "{seen:#}");
    assert_eq!(seen["own"], serde_json::json!(["count", "seen"]), "{seen:#}");
    assert!(seen["flush"].as_str().unwrap().contains("library `probe` may not flush"), "{seen:#}");
    assert!(seen["reserved"].as_str().unwrap().contains("U+10FFFF"), "{seen:#}");
    assert!(engine.log_text().contains("probe: counted"), "its lines are told from the module's");
    drop(engine);

    let engine = with_probe("trap");
    let node = engine.module_until("probing", "trapped", |node| node["last_error"].is_string());
    let told = node["last_error"].as_str().unwrap();
    assert!(told.contains("library `probe`: trap: ") && told.contains(" in block"), "{told}");
    engine.module_until("probing", "goes on", |node| node["dead_letters"].as_u64() > Some(0));
    let shown = engine.ctl(&["crash", "show", "probing"]);
    for part in ["library_probe.wasm", "as the module asked"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
}
