//! Serves a router on a listener, each connection in a task of its own.

use std::{pin::pin, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};
use tower_http::timeout::RequestBodyTimeoutLayer;

/// A connection without a whole request head for this long is closed, and so is one whose request's body stands still
/// for as long: silent ones must not take every place. Clients that keep theirs for longer between two requests connect
/// anew.
const SILENCE: Duration = Duration::from_secs(30);

/// Accepts until `closing` turns true; then requests in flight are answered, and it ends. Dropping it ends them at once.
pub(crate) async fn serve<L: Listener>(mut listener: L, router: Router, closing: watch::Receiver<bool>) {
    let router = router.layer(RequestBodyTimeoutLayer::new(SILENCE));
    let mut connections = JoinSet::new();
    let mut closed = pin!(is_closed(closing.clone()));
    loop {
        let io = tokio::select! {
            (io, _) = listener.accept() => io,
            () = closed.as_mut() => break,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(io, router.clone(), closing.clone()));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn is_closed(mut closing: watch::Receiver<bool>) {
    // An actor that is gone closes, too.
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn connection<S>(io: S, router: Router, closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let mut served = pin!(http.serve_connection(TokioIo::new(io), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = is_closed(closing) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::{sleep, timeout},
    };

    use super::*;

    struct One(Option<DuplexStream>);

    impl Listener for One {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.take() {
                Some(io) => (io, ()),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_hung_up_on() {
        let (mut client, server) = tokio::io::duplex(4_096);
        let (close, closing) = watch::channel(false);
        let slow = get(async || {
            sleep(2 * SILENCE).await;
            "late"
        });
        let serving = tokio::spawn(serve(One(Some(server)), Router::new().route("/", slow), closing));
        let mut buffer = [0; 4_096];
        for _ in 0..2 {
            sleep(SILENCE / 2).await;
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let count = timeout(3 * SILENCE, client.read(&mut buffer)).await.unwrap().unwrap();
            assert!(buffer[..count].ends_with(b"late"), "a request takes the time that it takes");
        }
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let end = timeout(2 * SILENCE, client.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the connection stays open");
        close.send_replace(true);
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_stops_half_way_is_hung_up_on() {
        let (mut client, server) = tokio::io::duplex(4_096);
        let (close, closing) = watch::channel(false);
        let echo = post(async |body: String| body);
        let serving = tokio::spawn(serve(One(Some(server)), Router::new().route("/", echo), closing));
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
        let mut buffer = [0; 4_096];
        client.write_all(head).await.unwrap();
        for piece in [b"la", b"te"] {
            sleep(SILENCE * 2 / 3).await;
            client.write_all(piece).await.unwrap();
        }
        let count = client.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].ends_with(b"late"), "slow is not silent");
        client.write_all(head).await.unwrap();
        client.write_all(b"la").await.unwrap();
        let end = timeout(2 * SILENCE, client.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the connection stays open");
        close.send_replace(true);
        serving.await.unwrap();
    }
}
