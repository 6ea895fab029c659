//! Counts the frames of one WebSocket: the library tells of messages alone, and reads on as long as more comes in.
//!
//! Reads above TLS what the library reads. Invariant: neither a message in frames of a few bytes nor pings and messages
//! without end are taken for what a node has to say.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Broken, Room};

/// Frames that a message may come in, however short it is.
const FRAGMENTS_MAX: u64 = 1_024;
/// A message may come in one frame more for each time that it has so many bytes.
const FRAGMENT_BYTES: u64 = 128;

/// Where in the stream the next byte lies.
enum At {
    /// In the answer to the handshake, which ends with an empty line.
    Answer { is_begun: bool, is_line_empty: bool },
    /// After these bytes of the header of a frame.
    Header(Vec<u8>),
    /// In what a frame carries, of which so many bytes are to come.
    Payload(u64),
}

/// What was read so far.
struct Frames {
    at: At,
    /// Of the message that is coming.
    fragments: u64,
    bytes: u64,
}

/// How long a header is that begins like this.
fn header_bytes(header: &[u8]) -> usize {
    let Some(second) = header.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
}

/// How many bytes follow a whole header.
fn payload_bytes(header: &[u8]) -> u64 {
    let length = match header[1] & 0x7f {
        126 => &header[2..4],
        127 => &header[2..10],
        short => return short.into(),
    };
    length.iter().fold(0, |bytes, byte| (bytes << 8) | u64::from(*byte))
}

impl Frames {
    fn new() -> Self {
        Self { at: At::Answer { is_begun: false, is_line_empty: true }, fragments: 0, bytes: 0 }
    }

    /// How many messages and control frames end in these bytes.
    fn read(&mut self, mut bytes: &[u8]) -> Result<usize, Broken> {
        let mut ended = 0;
        while let Some((byte, after)) = bytes.split_first() {
            let mut rest = after;
            match &mut self.at {
                // Lines before the first one that holds something are passed over by the library, too.
                At::Answer { is_begun: true, is_line_empty: true } if *byte == b'\n' => {
                    self.at = At::Header(Vec::new());
                }
                At::Answer { is_begun, is_line_empty } => match byte {
                    b'\n' => *is_line_empty = true,
                    b'\r' => {}
                    _ => (*is_begun, *is_line_empty) = (true, false),
                },
                At::Header(header) => {
                    header.push(*byte);
                    if header.len() == header_bytes(header) {
                        let header = std::mem::take(header);
                        ended += usize::from(self.begin(&header)?);
                        self.at = match payload_bytes(&header) {
                            0 => At::Header(Vec::new()),
                            bytes => At::Payload(bytes),
                        };
                    }
                }
                At::Payload(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    rest = &bytes[passed..];
                    *left -= passed as u64;
                    if *left == 0 {
                        self.at = At::Header(Vec::new());
                    }
                }
            }
            bytes = rest;
        }
        Ok(ended)
    }

    /// A frame begins; whether it is the last of a message, or a control frame.
    fn begin(&mut self, header: &[u8]) -> Result<bool, Broken> {
        if header[0] & 0x08 != 0 {
            return Ok(true);
        }
        self.fragments += 1;
        self.bytes = self.bytes.saturating_add(payload_bytes(header));
        let fragments_max = FRAGMENTS_MAX + self.bytes / FRAGMENT_BYTES;
        if self.fragments > fragments_max {
            return Err(Broken::TooMany(format!("a message came in more than {fragments_max} frames")));
        }
        let is_last = header[0] & 0x80 != 0;
        if is_last {
            (self.fragments, self.bytes) = (0, 0);
        }
        Ok(is_last)
    }
}

/// A stream of which no more frames are read than a node has reason to send.
pub(super) struct Framed<S> {
    stream: S,
    room: Arc<Room>,
    frames: Frames,
}

impl<S> Framed<S> {
    pub fn new(stream: S, room: Arc<Room>) -> Self {
        Self { stream, room, frames: Frames::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let counted = this.frames.read(&buf.filled()[before..]).and_then(|ended| this.room.count(ended));
        Poll::Ready(counted.map_err(|broken| this.room.fail(broken)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"\r\nHTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    /// A frame as a server sends it: its first byte, and what it carries.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let length = match payload {
            0..126 => vec![payload as u8],
            126..65_536 => [&[126][..], &(payload as u16).to_be_bytes()[..]].concat(),
            _ => [&[127][..], &(payload as u64).to_be_bytes()[..]].concat(),
        };
        [vec![first], length, vec![0x89; payload]].concat()
    }

    #[test]
    fn messages_and_control_frames_are_counted_however_they_come_in() {
        // A text in three frames with a ping between, one of two bytes, and one without any.
        let frames =
            [frame(0x01, 70_000), frame(0x00, 300), frame(0x89, 5), frame(0x80, 0), frame(0x81, 2), frame(0x81, 0)];
        let sent = [ANSWER, &frames.concat()].concat();
        for piece in [1, 2, 3, 7, 1_000, sent.len()] {
            let mut read = Frames::new();
            let ended: usize = sent.chunks(piece).map(|bytes| read.read(bytes).unwrap()).sum();
            assert_eq!(ended, 4, "in pieces of {piece}");
            assert!(matches!(&read.at, At::Header(header) if header.is_empty()), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_long_message_may_come_in_more_frames_than_a_short_one() {
        let taken = |payload: usize| {
            let mut read = Frames::new();
            read.read(ANSWER).unwrap();
            read.read(&frame(0x01, payload)).unwrap();
            (1..10_000_u64).find(|_| read.read(&frame(0x00, payload)).is_err())
        };
        assert_eq!(taken(0), Some(FRAGMENTS_MAX));
        assert_eq!(taken(64), Some(2 * FRAGMENTS_MAX));
        assert_eq!(taken(128), None, "frames of a usual length");
    }
}
