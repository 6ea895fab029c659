//! A connection that acknowledges at once what it has read.
//!
//! Of two short messages in a row many nodes keep the second one back until the first is acknowledged, for which Linux takes
//! 40 ms while nothing is sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(super) struct Prompt(TcpStream);

impl Prompt {
    /// What is written is sent at once as well.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Asked for after each read: the system goes back to waiting by itself.
    #[cfg(target_os = "linux")]
    fn acknowledge(&self) -> io::Result<()> {
        self.0.set_quickack(true)
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Prompt {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.0).poll_read(cx, buf))?;
        // What is wrong with the connection the next read tells.
        drop(this.acknowledge());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_read_is_acknowledged_at_once() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut ours = Prompt::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        // Whoever has asked something waits for the answer to carry the acknowledgement.
        for _ in 0..20 {
            ours.write_all(b"?").await.unwrap();
            assert_eq!(theirs.read_u8().await.unwrap(), b'?');
            theirs.write_all(b"!").await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), b'!');
            assert!(ours.0.quickack().unwrap() && ours.0.nodelay().unwrap());
        }
    }
}
