//! A server on the loopback that answers what a test wants.

use std::{future::pending, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Serves requests; its port. What `answer` makes of the head and the body of one is written as it is, and nothing is never
/// answered. One that panics closes the connection.
pub async fn serve(answer: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move { converse(stream, &*answer).await });
        }
    });
    port
}

async fn converse(mut stream: TcpStream, answer: &(impl Fn(&str, &str) -> Option<String> + Send + Sync)) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    // Requests come with their length, or without a body.
    let is_whole = |text: &str| {
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().unwrap())
    };
    while !is_whole(&text) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
        }
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    match answer(head, body) {
        // Whoever has read enough closes the connection.
        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
        None => pending().await,
    }
}

/// The path of a request.
pub fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

/// What a request has in a header.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

pub fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

pub fn ok(body: &str) -> String {
    answer("200 OK", "", body)
}
