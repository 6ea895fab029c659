//! Credentials of the operator's: they arrive, and stand nowhere else.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    engine::{EGRESS, FAST_CHAIN, Setup, eventually, path},
    outbox::{EAGER, sender},
};

const KEY: &str = "T000/B000/k3y-48151623-k3y";
/// The last part of it, which is a secret by itself.
const SECRET: &str = "k3y-48151623";

/// A server that refuses everything with what it was asked, and what that was.
fn repeating() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let head: Vec<_> =
                stream.by_ref().lines().map(|line| line.unwrap()).take_while(|line| !line.is_empty()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            let head = head.join(" ");
            let answer = format!(
                "HTTP/1.1 400 x\r\nconnection: close\r\nx-asked: {head}\r\ncontent-length: {}\r\n\r\n{head}",
                head.len()
            );
            seen.lock().unwrap().push(head);
            // A client that has gone does not hear it.
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    (url, asked)
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found)
        } else if path.is_file() {
            found.push(path)
        }
    }
}

#[test]
fn a_secret_arrives_and_stands_in_nothing_that_the_engine_writes_or_says() {
    let (url, asked) = repeating();
    for mode in ["keyed", "fetch"] {
        let credential = "[[egress.credentials]]\nname = \"hook\"\nhosts = [\"127.0.0.1\"]\nmodules = [\"sender\"]\n\
             value = \"file:hook\"\nheader = \"X-Key\"\nallow_http = true\n";
        let setup = Setup::new().mock(31337, FAST_CHAIN).with(EAGER).with("[journal]\nrecord = \"all\"");
        let setup = setup.egress(&format!("{EGRESS}{credential}"));
        let file = setup.dir.path().join("hook");
        fs::write(&file, format!("{KEY}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let setup = sender(setup, &format!("{url}/services/${{secret:hook}}"), mode, &[]);
        let mut engine = setup.prepare();
        engine.launch_with(|command| {
            command.env("NEXUM_ENGINE__LOG_LEVEL", "debug");
        });
        let line = format!("POST /services/{KEY}/").replace("POST", if mode == "keyed" { "POST" } else { "GET" });
        let arrived =
            || asked.lock().unwrap().iter().any(|text| text.starts_with(&line) && text.contains("x-key: T000"));
        eventually("it arrives", || arrived().then_some(()).ok_or_else(|| engine.ctl(&["tree"])));
        let told = if mode == "keyed" { "o/" } else { "f/" };
        eventually("the module is told", || engine.state("sender", told).pop().ok_or_else(|| engine.ctl(&["tree"])));
        let orders: [&[&str]; 8] = [
            &["tree"],
            &["metrics"],
            &["logs"],
            &["outbox", "list", "sender"],
            &["journal", "tail", "sender"],
            &["dlq", "list", "sender"],
            &["crash", "list", "sender"],
            &["state", "inspect", "sender"],
        ];
        for order in orders {
            let output = engine.raw_ctl(&[order, &["--json"]].concat());
            let said =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(!said.contains(SECRET), "{order:?}: {said}");
        }
        assert!(!engine.metrics_text().contains(SECRET));
        assert!(engine.terminate().success());
        let mut written = Vec::new();
        files(engine.dir.path(), &mut written);
        assert!(written.len() > 5);
        for written in written.iter().filter(|written| **written != file) {
            let bytes = fs::read(written).unwrap();
            let has = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!has, "{mode}: {}", path(written));
        }
    }
}
