//! Binding of the listeners.
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
};

use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

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
