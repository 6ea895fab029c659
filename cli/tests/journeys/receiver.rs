//! A real HTTP receiver that records what it is sent, and misbehaves on command.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::engine::free_port;

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Records it and says so.
    Fine,
    /// Answers with this status and records nothing.
    Refuses(u16),
    /// Records it and closes the connection without a word.
    LosesAnswers,
    /// Records it and answers 500.
    Confused,
    /// Says nothing until the mood changes.
    Hangs,
}

/// One request that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub path: String,
    pub key: String,
    pub body: String,
}

struct Shared {
    hits: Mutex<Vec<Hit>>,
    mood: Mutex<Mood>,
    stopped: AtomicBool,
}

pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start() -> Self {
        let shared = Shared { hits: Mutex::default(), mood: Mutex::new(Mood::Fine), stopped: AtomicBool::new(true) };
        let mut receiver = Self { port: free_port(), shared: Arc::new(shared), thread: None };
        receiver.resume();
        receiver
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Everything it took, repetitions included.
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().unwrap().clone()
    }

    /// What a receiver that honours keys has: the first of each, in the order of arrival.
    pub fn deduplicated(&self) -> Vec<Hit> {
        let mut seen = BTreeSet::new();
        self.hits().into_iter().filter(|hit| seen.insert(hit.key.clone())).collect()
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        if self.thread.is_some() {
            return;
        }
        let listener = super::engine::eventually("the receiver's port is free", || {
            TcpListener::bind(("127.0.0.1", self.port)).map_err(|error| error.to_string())
        });
        self.shared.stopped.store(false, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
                std::thread::spawn(move || serve(stream, &shared));
            }
        }));
    }

    /// Refuses connections from now on.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener so that it sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        thread.join().unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
        self.set(Mood::Fine);
    }
}

fn read(stream: &mut TcpStream) -> Option<Hit> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
                line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
            };
            let length = header("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let path = head.split(' ').nth(1)?.to_owned();
                return Some(Hit { path, key: header("idempotency-key").unwrap_or_default(), body: body.to_owned() });
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let Some(hit) = read(&mut stream) else { return };
    let mut mood = *shared.mood.lock().unwrap();
    while mood == Mood::Hangs && !shared.stopped.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_millis(20));
        mood = *shared.mood.lock().unwrap();
        // It forgets what it kept waiting.
        if mood != Mood::Hangs {
            return;
        }
    }
    if matches!(mood, Mood::Fine | Mood::LosesAnswers | Mood::Confused) {
        shared.hits.lock().unwrap().push(hit.clone());
    }
    let (status, body) = match mood {
        Mood::Fine => (200, format!("took {}", hit.body)),
        Mood::Confused => (500, "lost it".to_owned()),
        Mood::Refuses(status) => (status, "no".to_owned()),
        Mood::LosesAnswers | Mood::Hangs => return,
    };
    let answer = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // A client that has gone does not hear it.
    let _ = stream.write_all(answer.as_bytes());
}
