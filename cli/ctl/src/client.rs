//! The client of the admin API, over the engine's Unix socket or over TCP with a token.
//!
//! Turns every way to fail into a line that says what to do: an engine that does not answer is exit code 3, an unknown
//! name 5, a refusal 1.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use nexum_admin_api::ErrorBody;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use url::Url;

use crate::{args::Output, exit::Failure};

/// Engines are looked for here when nothing is said: the working directory's, then the machine's.
const SOCKETS: [&str; 2] = [".nexum/admin.sock", "/var/lib/nexum/admin.sock"];
/// A file with a token has no more.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// A host that does not answer at all is given up after this long.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The engine itself answers orders within 300 s. One that is stopped or stuck answers nothing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(310);
/// A header takes no other characters.
const TOKEN_EXPECTED: &str = "expected a token of visible ASCII characters";

#[derive(Clone)]
enum Target {
    Unix(PathBuf),
    /// Host and port as a header has them: a number of IPv6 in brackets.
    Tcp {
        authority: String,
        token: String,
    },
}

impl fmt::Display for Target {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
        }
    }
}

#[derive(Clone)]
pub struct Client {
    target: Target,
    /// How long an answer may take; none: as long as it takes.
    patience: Option<Duration>,
}

impl Client {
    /// The engine that the arguments name.
    pub fn new(output: &Output) -> Result<Self, Failure> {
        let target = target(output, &crate::environment()?)?;
        Ok(Self { target, patience: Some(ANSWER_DEADLINE) })
    }

    /// The same engine, for an answer that may take another time, or with none as long as it takes.
    pub fn patient(&self, patience: Option<Duration>) -> Self {
        Self { target: self.target.clone(), patience }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, Failure> {
        let body = serde_json::to_value(body).map_err(|error| Failure::failed(error.to_string()))?;
        self.read(Method::POST, path, Some(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(Method::DELETE, path, None).await
    }

    /// An order whose answer has no content.
    pub async fn order(&self, method: Method, path: &str, body: Option<Value>) -> Result<(), Failure> {
        self.whole(method, path, body).await.map(drop)
    }

    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.whole(Method::GET, path, None).await?;
        String::from_utf8(bytes.into())
            .map_err(|_| Failure::failed("the engine answered with something that is no text"))
    }

    pub async fn bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.whole(Method::GET, path, None).await
    }

    /// A streamed answer; its body is read frame by frame.
    pub async fn stream(&self, path: &str) -> Result<Incoming, Failure> {
        Ok(self.awaited(self.send(Method::GET, path, None)).await?.into_body())
    }

    /// Waits for an answer, or a piece of one, for as long as this client does.
    pub async fn awaited<T>(&self, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Some(patience) = self.patience else { return answer.await };
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::unreachable(format!(
                "the engine at {} has not answered within {patience:?}: is it stopped, or stuck?",
                self.target
            ))),
        }
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<T, Failure> {
        let bytes = self.whole(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::failed(format!("the engine's answer is not understood ({error}): is it of another version?"))
        })
    }

    async fn whole(&self, method: Method, path: &str, body: Option<Value>) -> Result<Bytes, Failure> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            response.into_body().collect().await.map(|body| body.to_bytes()).map_err(|error| self.broke_off(&error))
        };
        self.awaited(answer).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response<Incoming>, Failure> {
        let host = match &self.target {
            Target::Unix(_) => "engine",
            Target::Tcp { authority, .. } => authority.as_str(),
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Target::Tcp { token, .. } = &self.target {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default());
        let request = request.body(body).map_err(|error| Failure::usage(error.to_string()))?;
        let response = match &self.target {
            Target::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(|error| unreachable(path, &error))?;
                exchange(socket, request).await
            }
            Target::Tcp { authority, .. } => {
                let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(authority.as_str())).await;
                let timeout = || Err(io::Error::from(io::ErrorKind::TimedOut));
                let socket = connected
                    .unwrap_or_else(|_| timeout())
                    .map_err(|error| Failure::unreachable(format!("no engine answers at {}: {error}", self.target)))?;
                exchange(socket, request).await
            }
        };
        let response = response.map_err(|error| self.broke_off(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let message = serde_json::from_slice(&body)
            .map_or_else(|_| format!("the engine answered {status}"), |body: ErrorBody| body.error);
        Err(match status {
            StatusCode::NOT_FOUND => Failure::not_found(message),
            StatusCode::UNAUTHORIZED => Failure::failed("the engine refused the token: see --token-file"),
            _ => Failure::failed(message),
        })
    }

    fn broke_off(&self, error: &hyper::Error) -> Failure {
        Failure::unreachable(format!("the engine at {} broke off: {error}", self.target))
    }
}

/// Sends one request over a connection of its own.
async fn exchange<S>(socket: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // Drives the connection until the answer has been read; its errors come out at the answer.
    tokio::spawn(connection);
    sender.send_request(request).await
}

fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::unreachable(match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("the engine's socket {path} belongs to another user: use sudo -u, or --url with a token")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("no engine answers at {path}: is `nexum run` running? give --socket")
        }
        _ => format!("no engine answers at {path}: {error}"),
    })
}

/// The engine that flags name, else the environment, else the one that is found. An empty variable names none.
fn target(output: &Output, environment: &BTreeMap<String, String>) -> Result<Target, Failure> {
    let variable = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let tcp = |from: &str, url: &str| -> Result<Target, Failure> {
        let authority = authority(from, url)?;
        let (from, token) = match &output.token_file {
            // What is named may be the token itself.
            Some(file) => {
                ("--token-file", token_in(file).map_err(|error| Failure::usage(format!("--token-file: {error}")))?)
            }
            None => {
                let missing = || Failure::usage(format!("{from} needs a token: give --token-file, or set NEXUM_TOKEN"));
                ("NEXUM_TOKEN", variable("NEXUM_TOKEN").ok_or_else(missing)?.to_owned())
            }
        };
        Ok(Target::Tcp { authority, token: usable(from, &token)? })
    };
    match (&output.url, &output.socket) {
        (Some(url), _) => tcp("--url", url),
        (None, Some(path)) => Ok(Target::Unix(path.clone())),
        (None, None) => match (variable("NEXUM_URL"), variable("NEXUM_SOCKET")) {
            (Some(_), Some(_)) => Err(Failure::usage(
                "NEXUM_URL and NEXUM_SOCKET are both set, and each names an engine: unset one, or give --url or --socket",
            )),
            (Some(url), None) => tcp("NEXUM_URL", url),
            (None, Some(path)) => Ok(Target::Unix(PathBuf::from(path))),
            (None, None) => {
                let found = SOCKETS.iter().find(|path| Path::new(path).exists());
                Ok(Target::Unix(PathBuf::from(found.unwrap_or(&SOCKETS[0]))))
            }
        },
    }
}

/// Host and port of a URL that has nothing else.
fn authority(from: &str, url: &str) -> Result<String, Failure> {
    let expected = "expected one such as http://10.0.0.5:8081";
    // The URL is not repeated: it may hold a password.
    let parsed = Url::parse(url).map_err(|error| Failure::usage(format!("{from}: {error}; {expected}")))?;
    let (Some(host), "http") = (parsed.host_str(), parsed.scheme()) else {
        let hint = "the engine speaks plain HTTP: use a tunnel, or a proxy that ends TLS on its host";
        return Err(Failure::usage(format!("{from}: {expected}; {hint}")));
    };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let hint = "the engine takes a token alone, from --token-file or NEXUM_TOKEN";
        return Err(Failure::usage(format!("{from}: it has a user or a password: {expected}; {hint}")));
    }
    if parsed.path() != "/" || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(Failure::usage(format!("{from}: something follows the host and the port: {expected}")));
    }
    Ok(format!("{host}:{}", parsed.port().unwrap_or(80)))
}

/// A token as a header takes it, without what a file or a shell leaves around it; the engine does the same.
fn usable(from: &str, token: &str) -> Result<String, Failure> {
    let token = token.trim();
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token.to_owned()),
        false => Err(Failure::usage(format!("{from}: {TOKEN_EXPECTED}"))),
    }
}

/// It may be a pipe that a program with the token writes to.
fn token_in(file: &Path) -> io::Result<String> {
    let mut token = String::new();
    File::open(file)?.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut token)?;
    if token.len() as u64 > TOKEN_BYTES_MAX {
        let message = format!("it is larger than {TOKEN_BYTES_MAX} bytes, expected a token");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(token)
}

/// One part of a path, such as a key with slashes.
pub fn part(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn parts_of_a_path_are_encoded() {
        assert_eq!(part("a b/c?d%+e"), "a%20b%2Fc%3Fd%25%2Be");
        assert_eq!(part("price-watch"), "price-watch");
    }

    fn over_tcp(url: &str, token_file: Option<&Path>) -> Result<String, Failure> {
        let output = Output { url: Some(url.into()), token_file: token_file.map(Path::to_owned), ..Output::default() };
        target(&output, &BTreeMap::new()).map(|target| target.to_string())
    }

    #[test]
    fn only_plain_http_with_a_token() {
        let wrong = |url: &str| over_tcp(url, None).unwrap_err();
        assert!(wrong("https://a:1").message.contains("a proxy that ends TLS"));
        assert_eq!(wrong("10.0.0.5:8081").code, 2);
        assert_eq!(wrong("http://a:1").message, "--url needs a token: give --token-file, or set NEXUM_TOKEN");
    }

    #[test]
    fn neither_a_token_nor_a_password_is_repeated() {
        let k3y = "k3y-0123456789abcdef";
        // The token where the name of its file belongs.
        let refused = over_tcp("http://a:1", Some(Path::new(k3y))).unwrap_err();
        assert!(refused.message.starts_with("--token-file: No such file"), "{}", refused.message);
        for url in [format!("https://u:{k3y}@a:1/{k3y}"), k3y.to_owned(), format!("http://u:{k3y}@a:x")] {
            let refused = over_tcp(&url, Some(Path::new("none"))).unwrap_err();
            assert!(!refused.message.contains(k3y), "{}", refused.message);
        }
    }

    #[test]
    fn a_url_is_a_host_and_a_port_and_nothing_that_would_not_be_used() {
        for (url, taken) in
            [("http://a", "a:80"), ("http://a:1/", "a:1"), ("http://[::1]:1", "[::1]:1"), ("http://[::1]", "[::1]:80")]
        {
            assert_eq!(authority("--url", url).unwrap(), taken);
        }
        for (url, wrong) in [
            ("http://u:k3y@a:1", "--url: it has a user or a password: expected one such as"),
            ("http://k3y@a:1", "--url: it has a user or a password: "),
            ("http://:k3y@a:1", "--url: it has a user or a password: "),
            ("http://a:1/k3y", "--url: something follows the host and the port: "),
            ("http://a:1/?k3y", "--url: something follows the host and the port: "),
            ("http://a:1#k3y", "--url: something follows the host and the port: "),
        ] {
            let refused = authority("--url", url).unwrap_err();
            assert!(refused.code == 2 && refused.message.starts_with(wrong), "{url}: {refused}");
            assert!(!refused.message.contains("k3y"), "{refused}");
        }
    }

    #[test]
    fn flags_count_before_variables_and_empty_ones_not_at_all() {
        let chosen = |url: Option<&str>, socket: Option<&str>, variables: &[(&str, &str)]| {
            let output = Output { url: url.map(str::to_owned), socket: socket.map(PathBuf::from), ..Output::default() };
            let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            target(&output, &pairs.collect()).map(|target| target.to_string()).map_err(|refused| refused.message)
        };
        let (url, socket, token) = (("NEXUM_URL", "http://a:1"), ("NEXUM_SOCKET", "/a"), ("NEXUM_TOKEN", "k3y"));
        assert_eq!(chosen(None, Some("/b"), &[url, socket]).unwrap(), "/b");
        assert_eq!(chosen(Some("http://b:2"), None, &[url, socket, token]).unwrap(), "http://b:2");
        assert_eq!(chosen(None, None, &[url, token, ("NEXUM_SOCKET", "")]).unwrap(), "http://a:1");
        assert_eq!(chosen(None, None, &[socket, ("NEXUM_URL", "")]).unwrap(), "/a");
        let both = chosen(None, None, &[url, socket, token]).unwrap_err();
        assert!(both.starts_with("NEXUM_URL and NEXUM_SOCKET are both set"), "{both}");
        let neither = chosen(None, None, &[("NEXUM_URL", ""), ("NEXUM_SOCKET", "")]).unwrap();
        assert!(neither.ends_with("admin.sock"), "{neither}");
        let missing = chosen(None, None, &[url, ("NEXUM_TOKEN", "")]).unwrap_err();
        assert_eq!(missing, "NEXUM_URL needs a token: give --token-file, or set NEXUM_TOKEN");
    }

    /// Servers that keep to the standard refuse a request with two.
    #[tokio::test]
    async fn a_request_names_its_host_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let target = Target::Tcp { authority: authority.clone(), token: "k3y".into() };
        let client = Client { target, patience: Some(CONNECT_DEADLINE) };
        let asked = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (answered, request) = tokio::join!(client.text("/v1/tree"), asked);
        assert_eq!(answered.unwrap(), "");
        let hosts: Vec<_> = request.lines().filter(|line| line.to_lowercase().starts_with("host:")).collect();
        assert_eq!(hosts, [format!("host: {authority}")]);
    }

    #[test]
    fn what_has_no_end_is_no_token() {
        let token = |file: &str| token_in(Path::new(file)).unwrap_err().to_string();
        assert_eq!(token("/dev/zero"), "it is larger than 65536 bytes, expected a token");
        assert!(token("/").starts_with("Is a directory"), "{}", token("/"));
    }

    #[test]
    fn a_token_is_what_a_header_takes() {
        assert_eq!(usable("NEXUM_TOKEN", "\t k3y!~ \r\n").unwrap(), "k3y!~");
        for wrong in ["", " \n", "k3y\nk3y", "k3y k3y", "k3y\0", "k3\u{fd}"] {
            let refused = usable("NEXUM_TOKEN", wrong).unwrap_err();
            assert_eq!(refused.message, "NEXUM_TOKEN: expected a token of visible ASCII characters");
            assert_eq!(refused.code, 2);
        }
    }

    /// As the system connects for a process that is stopped.
    #[tokio::test]
    async fn an_engine_that_does_not_answer_is_given_up() {
        let directory = tempfile::TempDir::new().unwrap();
        let socket = directory.path().join("admin.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(&Output { socket: Some(socket), ..Output::default() }).unwrap();
        assert_eq!(client.patience, Some(Duration::from_secs(310)));
        let client = client.patient(Some(Duration::from_millis(50)));
        for failure in [client.text("/v1/tree").await.unwrap_err(), client.stream("/v1/logs").await.unwrap_err()] {
            assert_eq!(failure.code, 3);
            assert!(failure.message.ends_with("has not answered within 50ms: is it stopped, or stuck?"), "{failure}");
        }
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_do() {
        let output = Output { socket: Some("/nonexistent/admin.sock".into()), ..Output::default() };
        let failure = Client::new(&output).unwrap().text("/v1/tree").await.unwrap_err();
        assert_eq!(failure.code, 3);
        assert_eq!(
            failure.message,
            "no engine answers at /nonexistent/admin.sock: is `nexum run` running? give --socket"
        );
    }
}
