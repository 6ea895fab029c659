//! Answers by the byte: compressed ones, and such as nobody has room for.

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use super::Client;

/// How much is sent as one answer, in pieces of this size.
const HUGE_PIECES: usize = 300;
const PIECE_BYTES: usize = 1 << 20;
/// The longest piece that one stored block of a compressed stream may have.
const STORED_BYTES_MAX: usize = 65_535;
const BEGINNING: &str = r#"{"jsonrpc":"2.0","id":1,"result":["#;
/// An answer to nothing that was asked, and how many of them are one message of 46 MiB: a single answer may be longer.
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":9007199254740991,"result":null}"#;
const ANSWERS: usize = 900_000;
/// What a frame is said to have, bytes.
const ANNOUNCED_BYTES: u64 = 1 << 30;

/// How a WebSocket is flooded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// With one message of very many small answers.
    Answers,
    /// With a frame that is said to have a gigabyte, of which nothing comes.
    Announced,
    /// With a message in frames without content, and without end.
    Endless,
}

/// The bytes in a gzip stream that compresses nothing.
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let pieces: Vec<&[u8]> = body.chunks(STORED_BYTES_MAX).collect();
    for (nth, piece) in pieces.iter().enumerate() {
        let length = u16::try_from(piece.len()).unwrap();
        out.push(u8::from(nth + 1 == pieces.len()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out.extend(crc32(body).to_le_bytes());
    out.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
}

/// Sends 300 MB as the body of an answer whose length is not told, as far as the other side reads on.
pub async fn huge(stream: &mut BufReader<TcpStream>) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(format!("{:x}\r\n{BEGINNING}\r\n", BEGINNING.len()).as_bytes()).await.ok()?;
    let piece = [format!("{PIECE_BYTES:x}\r\n").as_bytes(), &[b' '; PIECE_BYTES], b"\r\n"].concat();
    for _ in 0..HUGE_PIECES {
        stream.write_all(&piece).await.ok()?;
    }
    stream.write_all(b"2\r\n]}\r\n0\r\n\r\n").await.ok()
}

/// The same as one message of a WebSocket.
pub async fn huge_message(to_client: &mut Client) -> Option<()> {
    let frame =
        |bytes: Vec<u8>, data: Data, last: bool| Message::Frame(Frame::message(bytes, OpCode::Data(data), last));
    to_client.send(frame(BEGINNING.as_bytes().to_vec(), Data::Text, false)).await.ok()?;
    for _ in 0..HUGE_PIECES {
        to_client.send(frame(vec![b' '; PIECE_BYTES], Data::Continue, false)).await.ok()?;
    }
    to_client.send(frame(b"]}".to_vec(), Data::Continue, true)).await.ok()
}

/// Floods a WebSocket as soon as something is asked over it, as far as the other side reads on.
pub async fn flood(mut client: WebSocketStream<TcpStream>, flood: Flood) -> Option<()> {
    client.next().await?.ok()?;
    let stream = client.get_mut();
    // A text in one frame, whose length has eight bytes.
    let beginning = |bytes: u64| [&[0x81_u8, 127][..], &bytes.to_be_bytes()].concat();
    match flood {
        Flood::Answers => {
            let text = format!("[{}]", vec![ANSWER; ANSWERS].join(","));
            stream.write_all(&beginning(text.len() as u64)).await.ok()?;
            stream.write_all(text.as_bytes()).await.ok()?;
        }
        Flood::Announced => stream.write_all(&beginning(ANNOUNCED_BYTES)).await.ok()?,
        Flood::Endless => {
            // The beginning of a text, and nothing more of it.
            stream.write_all(&[0x01, 0]).await.ok()?;
            while stream.write_all(&[0; 16 << 10]).await.is_ok() {}
        }
    }
    // Until the other side hangs up.
    while client.next().await.is_some_and(|message| message.is_ok()) {}
    None
}
