//! Serves a router on a listener, each connection in a task of its own.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Version, header::HOST},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::Listener,
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::{error::ApiError, metrics::Connections};

/// Connections that a listener serves at a time. Scrapers and probes need a handful; more than this is a flood, and waits.
const CONNECTIONS_MAX: usize = 256;
/// A connection without a whole request head for this long is closed, and so is one whose request's body stands still, or
/// whose answers wait for their reader, for as long: silent ones must not take every place. Clients that keep theirs for
/// longer between two requests connect anew.
const SILENCE: Duration = Duration::from_secs(30);
/// What a reader may let its answers wait for again, for each byte of them that it takes: those who take less than a
/// thousand bytes a second are as good as silent.
const WAIT_PER_BYTE: Duration = Duration::from_millis(1);

/// Accepts until `closing` turns true; then requests in flight are answered, and it ends. Dropping it ends them at once.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    closing: watch::Receiver<bool>,
    counted: Connections,
) {
    let router = router.layer(RequestBodyTimeoutLayer::new(SILENCE)).layer(middleware::from_fn(with_one_host));
    let mut connections = JoinSet::new();
    // Sent to have the connections that there are end with the answer at hand, and those between two requests at once.
    let finish = watch::Sender::new(());
    let mut closed = pin!(is_closed(closing));
    loop {
        let io = tokio::select! {
            (io, _) = listener.accept() => io,
            () = closed.as_mut() => break,
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            finish.send_replace(());
            counted.wait();
            tokio::select! {
                _ = connections.join_next() => {}
                () = closed.as_mut() => break,
            }
        }
        let (open, served) = (counted.open(), connection(io, router.clone(), finish.subscribe()));
        connections.spawn(async move {
            let _open = open;
            served.await;
        });
    }
    drop(listener);
    finish.send_replace(());
    while connections.join_next().await.is_some() {}
}

async fn is_closed(mut closing: watch::Receiver<bool>) {
    // An actor that is gone closes, too.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Refuses a request that does not say once for which host it is, as RFC 9112 wants: whoever passed it on may have taken
/// another host for the one that is meant.
async fn with_one_host(request: Request, next: Next) -> Response {
    let least = usize::from(request.version() == Version::HTTP_11);
    let hosts = request.headers().get_all(HOST).iter().count();
    if (least..=1).contains(&hosts) {
        return next.run(request).await;
    }
    ApiError::new(StatusCode::BAD_REQUEST, format!("the request must have one `Host` header, not {hosts}"))
        .into_response()
}

async fn connection<S>(io: S, router: Router, mut finish: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let io = TokioIo::new(Impatient { io, patience: SILENCE, waits: None });
    let (router, has_asked) = (TowerToHyperService::new(router), Arc::new(AtomicBool::new(false)));
    let service = service_fn({
        let has_asked = has_asked.clone();
        move |request: hyper::Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            router.call(request)
        }
    });
    let mut served = pin!(http.serve_connection(io, service));
    let ended = tokio::select! {
        // First: a request that has come is answered even where the connection is to end.
        biased;
        ended = served.as_mut() => ended,
        // Whoever would send it ends its connections when it is gone.
        _ = finish.changed() => {
            // Whoever has not asked for anything, or only begun to, has no answer to wait for.
            if !has_asked.load(Ordering::Relaxed) {
                return;
            }
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

/// A connection that breaks off when its client does not take what is written to it.
struct Impatient<S> {
    io: S,
    /// How long writes may still wait.
    patience: Duration,
    /// Ends when the write at hand has waited for that long; absent while none waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Poll::Ready(written) = Pin::new(&mut this.io).poll_write(cx, bytes) else {
            let patience = this.patience;
            let waits = this.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(waits.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some(waits) = this.waits.take() {
            this.patience = waits.deadline().saturating_duration_since(Instant::now());
        }
        if let Ok(bytes) = &written {
            let taken = u32::try_from(*bytes).unwrap_or(u32::MAX);
            this.patience = this.patience.saturating_add(WAIT_PER_BYTE.saturating_mul(taken)).min(SILENCE);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use axum::routing::{get, post};
    use prometheus::Registry;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::timeout,
    };

    use super::*;
    use crate::metrics::GatewayMetrics;

    fn counted() -> Connections {
        GatewayMetrics::register(&Registry::new()).unwrap().of("test")
    }

    /// Clients that come one after the other.
    struct Clients(VecDeque<DuplexStream>);

    impl Listener for Clients {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.pop_front() {
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
        let serving = tokio::spawn(serve(Clients([server].into()), Router::new().route("/", slow), closing, counted()));
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
        let serving = tokio::spawn(serve(Clients([server].into()), Router::new().route("/", echo), closing, counted()));
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

    /// A client of its own whose request has come, of which so many bytes of the answer wait.
    async fn asks(path: &str, buffer: usize) -> (DuplexStream, DuplexStream) {
        let (mut client, server) = tokio::io::duplex(buffer);
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        (client, server)
    }

    /// A long answer and a short one.
    fn answers() -> Router {
        Router::new().route("/long", get(async || "x".repeat(1 << 20))).route("/short", get(async || "short"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_answer_is_hung_up_on() {
        let (_close, closing) = watch::channel(false);
        let ((mut silent, waiting), (mut grudging, held_up)) = (asks("/long", 64).await, asks("/long", 64).await);
        tokio::spawn(serve(Clients([waiting, held_up].into()), answers(), closing, counted()));
        for _ in 0..3 {
            // What had come before it was hung up on can still be read.
            grudging.read_exact(&mut [0]).await.unwrap();
            sleep(SILENCE * 29 / 30).await;
        }
        assert!(silent.write_all(b"x").await.is_err(), "it takes nothing, and the connection stays open");
        assert!(grudging.write_all(b"x").await.is_err(), "it takes a byte now and then, and the connection stays open");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_answer_slowly_is_waited_for() {
        let (_close, closing) = watch::channel(false);
        let (mut slow, server) = asks("/long", 4_096).await;
        tokio::spawn(serve(Clients([server].into()), answers(), closing, counted()));
        for _ in 0..200 {
            slow.read_exact(&mut [0; 2_000]).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        assert!(slow.write_all(b"x").await.is_ok(), "slow is not silent");
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_keeps_a_place_gives_way() {
        let (_close, closing) = watch::channel(false);
        let (mut kept, mut clients) = (Vec::new(), VecDeque::new());
        for nth in 0..CONNECTIONS_MAX {
            let (mut client, server) = tokio::io::duplex(4_096);
            // Some have asked, some have begun to, and others have not said anything.
            let said: &[u8] = [b"GET /short HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(), b"GET /short", b""][nth % 3];
            client.write_all(said).await.unwrap();
            kept.push(client);
            clients.push_back(server);
        }
        let (mut last, server) = asks("/short", 4_096).await;
        clients.push_back(server);
        let began = Instant::now();
        let registry = Registry::new();
        let counted = GatewayMetrics::register(&registry).unwrap().of("test");
        tokio::spawn(serve(Clients(clients), answers(), closing, counted));
        let mut answer = [0; 4_096];
        let count = timeout(2 * SILENCE, last.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..count].ends_with(b"short"));
        assert!(began.elapsed() < SILENCE, "it waited until the others were silent for too long");
        let values = |name: &str| {
            let family = registry.gather().into_iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].clone()
        };
        assert_eq!(values("nexum_gateway_connections_waited_total").get_counter().get_value(), 1.0);
        let open = values("nexum_gateway_connections").get_gauge().get_value();
        assert!(open <= CONNECTIONS_MAX as f64, "{open} are open");
        for (nth, client) in kept.iter_mut().enumerate().step_by(3) {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(answer.ends_with(b"short"), "client {nth} had asked, and was not answered");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_for_one_host() {
        let status_of = async |version: &str, hosts: &str| {
            let (_close, closing) = watch::channel(false);
            let (mut client, server) = tokio::io::duplex(4_096);
            tokio::spawn(serve(Clients([server].into()), answers(), closing, counted()));
            let request = format!("GET /short HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap().split(' ').nth(1).map(str::to_owned)
        };
        assert_eq!(status_of("1.1", "host: a\r\n").await.as_deref(), Some("200"));
        assert_eq!(status_of("1.0", "").await.as_deref(), Some("200"));
        for (version, hosts) in [("1.1", ""), ("1.1", "host: a\r\nhost: b\r\n"), ("1.0", "host: a\r\nhost: a\r\n")] {
            assert_eq!(status_of(version, hosts).await.as_deref(), Some("400"), "HTTP/{version} with {hosts:?}");
        }
    }
}
