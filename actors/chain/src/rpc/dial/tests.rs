//! How hosts are looked up, against servers on this machine.

use std::io;

use nexum_host_ifaces::clock::SystemClock;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
    time::timeout,
};

use super::{room::UNASKED_BYTES_MAX, *};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES_MAX: usize = 1 << 20;

/// The network with a resolver that finds `works.test` on this machine, knows no `none.test`, and answers for nothing
/// else. `asked` is told of what it does not answer.
fn network(asked: &Arc<Notify>) -> Network {
    let asked = asked.clone();
    let look_up: LookUp = Arc::new(move |name: &str| -> io::Result<Vec<SocketAddr>> {
        match name {
            "works.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]),
            "none.test" => Err(io::Error::other("no such name")),
            _ => loop {
                asked.notify_one();
                std::thread::park();
            },
        }
    });
    let metrics = ChainMetrics::register(&Registry::new()).unwrap();
    Network::new(look_up, Arc::new(SystemClock::new()), &metrics)
}

/// Answers one request over HTTP, and opens one WebSocket.
async fn serve(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"?") {
        let mut some = [0; 1_024];
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0, "it ended before its body");
        request.extend_from_slice(&some[..count]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n!").await.unwrap();
    drop(stream);
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    // Until the other side closes it.
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
}

fn url(scheme: &str, host: &str, port: u16) -> Url {
    format!("{scheme}://{host}:{port}/").parse().unwrap()
}

async fn post(network: &Network, url: Url) -> Result<Vec<u8>, Broken> {
    let client = network.http(&url).unwrap();
    let reply = client.post("?".to_owned(), BYTES_MAX, &Meter::new(BYTES_MAX)).await;
    reply.map(|reply| reply.body)
}

async fn first_text(network: &Network, url: Url) -> Result<String, Broken> {
    first_text_in(network, url, &Arc::new(Room::new(BYTES_MAX, &Meter::new(BYTES_MAX), PATIENCE))).await
}

async fn first_text_in(network: &Network, url: Url, room: &Arc<Room>) -> Result<String, Broken> {
    let mut socket = network.ws(&url, Duration::from_secs(10), room).await?;
    socket.from_node.recv().await.unwrap()
}

#[test]
fn a_host_whose_name_servers_are_silent_keeps_no_other_endpoint_waiting_and_no_read_of_the_store() {
    // One thread for everything that blocks: whoever holds it up is noticed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let asked = Arc::new(Notify::new());
        let network = Arc::new(network(&asked));
        let mut waiting = Vec::new();
        for host in ["silent-1.test", "silent-2.test"] {
            for scheme in ["http", "ws"] {
                let (network, url) = (network.clone(), url(scheme, host, 1));
                waiting.push(tokio::spawn(async move {
                    match scheme {
                        "http" => post(&network, url).await.map(drop),
                        _ => first_text(&network, url).await.map(drop),
                    }
                }));
            }
            timeout(PATIENCE, asked.notified()).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(serve(listener));
        let answer = timeout(PATIENCE, post(&network, url("http", "works.test", port))).await.unwrap();
        assert_eq!(answer.unwrap(), b"!");
        let text = timeout(PATIENCE, first_text(&network, url("ws", "works.test", port))).await.unwrap();
        assert_eq!(text.unwrap(), "hello");
        serving.await.unwrap();
        // Where the store reads.
        timeout(PATIENCE, tokio::task::spawn_blocking(|| ())).await.unwrap().unwrap();
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[tokio::test]
async fn what_dns_says_is_told_like_other_failures() {
    let network = network(&Arc::default());
    let why = Broken::Lost("DNS: no such name".into());
    assert_eq!(post(&network, url("http", "none.test", 1)).await.unwrap_err(), why);
    assert_eq!(first_text(&network, url("ws", "none.test", 1)).await.unwrap_err(), why);
}

/// Over HTTP, and where a WebSocket is to be opened.
#[tokio::test]
async fn whoever_asks_for_patience_until_a_date_is_understood() {
    let network = network(&Arc::default());
    for scheme in ["http", "ws"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(scheme, "127.0.0.1", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let end: &[u8] = if scheme == "http" { b"?" } else { b"\r\n\r\n" };
            let mut request = Vec::new();
            while !request.ends_with(end) {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0, "it ended before its end");
            }
            let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\n\
                          content-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let asked = async {
            if scheme == "ws" {
                let room = Arc::new(Room::new(BYTES_MAX, &Meter::new(BYTES_MAX), PATIENCE));
                return match network.ws(&url, PATIENCE, &room).await.map(drop) {
                    Err(Broken::Refused { status, retry_after }) => (status, retry_after),
                    other => panic!("{other:?}"),
                };
            }
            let http = network.http(&url).unwrap();
            let reply = http.post("?".to_owned(), BYTES_MAX, &Meter::new(BYTES_MAX)).await.unwrap();
            (reply.status, reply.retry_after)
        };
        let (status, retry_after) = timeout(PATIENCE, asked).await.unwrap();
        assert_eq!(status, 429);
        assert!(retry_after.is_some_and(|after| after > Duration::from_secs(1 << 30)), "{scheme}: {retry_after:?}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn an_address_from_which_nothing_comes_back_keeps_nobody_waiting_for_the_next() {
    let addresses = [1, 2, 3, 4].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
    let connect = |address: SocketAddr| async move {
        match address.port() {
            1 => std::future::pending().await,
            2 => Err(io::Error::other("refused")),
            port => Ok(port),
        }
    };
    assert_eq!(timeout(PATIENCE, first(&addresses, connect)).await.unwrap().unwrap(), 3);
    let refused = |address: SocketAddr| {
        let refuses = io::Error::other(format!("{} refuses", address.port()));
        std::future::ready(Err::<(), _>(refuses))
    };
    assert_eq!(first(&addresses, refused).await.unwrap_err().to_string(), "1 refuses");
    assert!(first(&[], refused).await.unwrap_err().to_string().contains("no address"));
}

/// Frames that add nothing to their message are not read for ever.
#[tokio::test]
async fn a_message_in_frames_without_end_ends_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url("ws", "127.0.0.1", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap().into_inner();
        // The beginning of a text, and nothing more of it.
        stream.write_all(&[0x01, 0x00]).await.unwrap();
        while stream.write_all(&[0; 1 << 14]).await.is_ok() {}
    });
    let network = network(&Arc::default());
    let meter = Meter::new(4 * BYTES_MAX);
    let room = Arc::new(Room::new(4 * BYTES_MAX, &meter, PATIENCE));
    let text = timeout(PATIENCE, first_text_in(&network, url, &room)).await.unwrap();
    assert_eq!(text.unwrap_err(), Broken::TooMany("a message came in more than 1024 frames".into()));
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

/// Neither pings nor messages without content are read for ever, however little they take.
#[tokio::test]
async fn pings_and_empty_messages_without_end_end_the_connection() {
    for frame in [[0x89_u8, 0x00], [0x8a, 0x00], [0x81, 0x00]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url("ws", "127.0.0.1", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap().into_inner();
            while stream.write_all(&frame.repeat(1 << 13)).await.is_ok() {}
        });
        let room = Arc::new(Room::new(BYTES_MAX, &Meter::new(4 * BYTES_MAX), PATIENCE));
        let network = network(&Arc::default());
        let reading = async {
            // What came with the answer to the handshake may be too much already.
            let mut socket = match network.ws(&url, Duration::from_secs(10), &room).await {
                Ok(socket) => socket,
                Err(broken) => return broken,
            };
            loop {
                match socket.from_node.recv().await.unwrap() {
                    Ok(text) => assert_eq!(text, ""),
                    Err(broken) => break broken,
                }
            }
        };
        let broken = timeout(PATIENCE, reading).await.unwrap();
        let why = "more than 1024 messages and pings in a second that nobody asked for";
        assert_eq!(broken, Broken::TooMany(why.into()), "{frame:02x?}");
        timeout(PATIENCE, serving).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_long_message_is_read_only_where_an_answer_is_waited_for() {
    let network = network(&Arc::default());
    let length = 2 * UNASKED_BYTES_MAX;
    for is_awaited in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url("ws", "127.0.0.1", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            // It may be refused before its end.
            let _ = socket.send(Message::text("x".repeat(length))).await;
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        });
        let meter = Meter::new(2 * length);
        let room = Arc::new(Room::new(length, &meter, PATIENCE));
        let awaits = is_awaited.then(|| room.awaits(length));
        let text = timeout(PATIENCE, first_text_in(&network, url, &room)).await.unwrap();
        match awaits {
            Some(_) => {
                assert_eq!(text.unwrap().len(), length);
                let held = room.taken();
                assert!(meter.held() >= length, "it is counted until it is dropped");
                drop(held);
                assert!(meter.held() < length);
            }
            None => assert_eq!(text.unwrap_err(), Broken::TooLarge { bytes_max: UNASKED_BYTES_MAX }),
        }
        timeout(PATIENCE, serving).await.unwrap().unwrap();
    }
}
