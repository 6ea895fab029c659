//! As much of an HTTP client as the tests need.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
};

pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The body without the sizes of its chunks.
    pub fn chunked(&self) -> String {
        let lines: Vec<_> = self.body.split("\r\n").collect();
        lines.chunks(2).filter_map(|pair| pair.get(1).copied()).collect()
    }
}

async fn connect(target: &Target) -> Box<dyn Socket> {
    match target {
        Target::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
        Target::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
    }
}

pub async fn get(target: &Target, path: &str) -> Answer {
    send(target, "GET", path, &[], None).await
}

pub async fn send(target: &Target, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut socket = connect(target).await;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    socket.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A streamed answer, read line by line.
pub struct Stream(BufReader<Box<dyn Socket>>);

impl Stream {
    pub async fn open(target: &Target, path: &str) -> Self {
        let mut socket = connect(target).await;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: engine\r\n\r\n").as_bytes()).await.unwrap();
        Self(BufReader::new(socket))
    }

    /// The next line that is a JSON object; skips the head and the sizes of chunks.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.unwrap() == 0 {
                return None;
            }
            if line.starts_with('{') {
                return Some(line.trim_end().to_owned());
            }
        }
    }
}
