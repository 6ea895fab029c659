//! Binding of the listeners, and their bound on connections.
//!
//! Invariant: the admin socket is never open to other users, not even for the moment between its creation and a chmod.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener, UnixSocket, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Open connections per listener. Scrapers and probes need a handful; more than this is a flood, and waits.
const CONNECTIONS_MAX: usize = 256;
/// Connections the kernel may hold until they are accepted.
const BACKLOG: u32 = 128;
/// Longest path a Unix socket can have on Linux, bytes: `sun_path` less its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a listener could not be opened. Names the configuration key.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{address} is in use: is another engine running? else set `{key}` to another address")]
    Busy { key: &'static str, address: SocketAddr },
    #[error("cannot listen on {address} (`{key}`): {error}")]
    Tcp { key: &'static str, address: SocketAddr, error: io::Error },
    #[error("an engine already answers at {}: stop it, or set `{key}` to another path", path.display())]
    Live { key: &'static str, path: PathBuf },
    #[error("{} exists and is not a socket: remove it, or set `{key}` to another path", path.display())]
    NotASocket { key: &'static str, path: PathBuf },
    #[error("{} is too long for a socket (at most {SOCKET_PATH_BYTES_MAX} bytes): set `{key}` to a shorter path", path.display())]
    PathTooLong { key: &'static str, path: PathBuf },
    #[error("cannot listen on {} (`{key}`): {error}", path.display())]
    Unix { key: &'static str, path: PathBuf, error: io::Error },
}

/// Opens a TCP listener; `key` is the configuration key its address comes from.
pub(crate) async fn tcp(key: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::Busy { key, address },
        _ => ListenError::Tcp { key, address, error },
    })
}

/// Opens a Unix socket that only this user can connect to. A socket that a dead engine left behind is replaced.
pub(crate) async fn unix(key: &'static str, path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let path = path.to_owned();
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ListenError::PathTooLong { key, path });
    }
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket { key, path }),
        Ok(_) if UnixStream::connect(&path).await.is_ok() => return Err(ListenError::Live { key, path }),
        Ok(_) => fs::remove_file(&path).map_err(|error| ListenError::Unix { key, path: path.clone(), error })?,
        Err(_) => {}
    }
    bind_private(&path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::Live { key, path: path.clone() },
        _ => ListenError::Unix { key, path: path.clone(), error },
    })
}

fn bind_private(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let private = fs::Permissions::from_mode(0o600);
    let socket = UnixSocket::new_stream()?;
    // On Linux the file that `bind` makes takes its mode from the socket, so that it is private from the start.
    fs::File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(private.clone())?;
    socket.bind(path)?;
    let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
    fs::set_permissions(path, private)?;
    Ok((socket.listen(BACKLOG)?, file))
}

/// The socket's file; removed when the listener goes, unless somebody else has put theirs in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket could not be removed");
        }
    }
}

/// A listener that accepts no more than `CONNECTIONS_MAX` connections at a time.
pub(crate) struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L> Bounded<L> {
    pub fn new(listener: L) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl<L: Listener + Sync> Listener for Bounded<L> {
    type Io = Held<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.places.clone().acquire_owned().await.ok();
        let (io, address) = self.listener.accept().await;
        (Held { io, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection and the place it takes.
pub(crate) struct Held<S> {
    io: S,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
