//! The operator's credentials: what is put into a request on its way out, so that no module has it.
//!
//! Invariant: a secret goes to the hosts that it is for, for the modules that it is for, over https unless the operator says
//! otherwise, and nowhere else. The request of the module, which is what is recorded, kept and shown, has the names of secrets
//! alone. Everything here is decided for one hop of a request, after the allowlist has let it through; the next one begins
//! with the module's request again.

mod forms;
mod placeholder;
mod sign;
mod value;

use std::{borrow::Cow, sync::Arc};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    bounded::{NAME_BYTES_MAX, cut},
    clock::Clock,
    interfaces::http::{
        grant::Allowlist,
        port::{BODY_BYTES_MAX, HEADER_BYTES_MAX, Header, Request, URL_BYTES_MAX},
    },
};
use url::Url;

pub(crate) use forms::Exposed;
use forms::Forms;
pub use placeholder::is_name;
use placeholder::{OPENING, Piece, broken, denied, encoded, filled, is_in};
use sign::Signed;
pub use sign::{Algorithm, Encoding, Payload, Signing, TimeUnit};
pub use value::{VALUE_BYTES_MAX, Value};

/// Headers that would hide from us what an answer repeats: it is asked for as it is, and as a whole.
const HIDING: [&str; 2] = ["accept-encoding", "range"];

/// One credential, as it was read.
#[derive(Debug, Clone)]
pub struct Credential {
    /// What modules write in `${secret:NAME}`.
    pub name: Option<String>,
    pub hosts: Allowlist,
    pub modules: Vec<String>,
    /// Text, or the key of a signature; or why it cannot be read.
    pub value: Result<Value, String>,
    pub adds: Adds,
    /// Whether it may stand in a body. Bodies have the texts of strangers in them, as they are.
    pub body: bool,
    /// Whether it may leave over plain http.
    pub allow_http: bool,
}

/// What a credential adds to every request of its modules to its hosts.
#[derive(Debug, Clone)]
pub enum Adds {
    Nothing,
    /// The header of this name, with the secret as its value.
    Header(String),
    /// A signature that the secret is the key of. Such a secret is written nowhere.
    Signature(Signing),
}

/// Reads the credentials, with every start of the actor.
pub type ReadCredentials = Arc<dyn Fn() -> Vec<Credential> + Send + Sync>;

impl Credential {
    fn is_for(&self, module: &str, url: &Url) -> bool {
        self.is_of(module) && self.hosts.check(url).is_ok() && (url.scheme() == "https" || self.allow_http)
    }

    fn is_of(&self, module: &str) -> bool {
        self.modules.iter().any(|name| name == module)
    }

    fn is_named(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// The headers that are its own.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        let both = match &self.adds {
            Adds::Nothing => [None, None],
            Adds::Header(name) => [Some(name.as_str()), None],
            Adds::Signature(signing) => [Some(signing.header.as_str()), signing.timestamp_header.as_deref()],
        };
        both.into_iter().flatten()
    }

    fn value(&self) -> Result<&Value, HostError> {
        self.value.as_ref().map_err(|_| {
            let name = self.name.as_deref().map_or_else(String::new, |name| format!(" `{name}`"));
            let message = format!("the operator's credential{name} cannot be read; the engine's log says why");
            HostError::new("http", HostErrorKind::Unavailable, message)
        })
    }

    fn text(&self) -> Result<&str, HostError> {
        let Some(text) = self.value()?.as_text() else { unreachable!("what is no key of a signature is text") };
        Ok(text)
    }
}

/// How a request came to the URL that it leaves for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// The module asked for it.
    Module,
    /// By redirects within the origin that the module asked for.
    SameOrigin,
    /// By redirects of which one led to another origin: what is the operator's goes no further, wherever the next one leads.
    CrossOrigin,
}

struct Loaded {
    credential: Credential,
    forms: Arc<Forms>,
}

/// All credentials of an engine.
#[derive(Clone)]
pub(crate) struct Credentials {
    all: Arc<[Loaded]>,
    clock: Arc<dyn Clock>,
}

impl Credentials {
    /// Those that were read. One that could not be is told to the log, and to the modules that need it.
    pub fn new(read: Vec<Credential>, clock: Arc<dyn Clock>) -> Self {
        let loaded = |(index, credential): (usize, Credential)| {
            if let Err(why) = &credential.value {
                let name = credential.name.as_deref().unwrap_or_default();
                tracing::error!(
                    number = index + 1,
                    name,
                    "the value of one of [[egress.credentials]] cannot be used, and requests that need it fail: {why}; put it \
                     right, then `nexumctl service restart egress`"
                );
            }
            let forms = credential.value.as_ref().map_or_else(|_| Forms::none(), Forms::of);
            Loaded { credential, forms: Arc::new(forms) }
        };
        Self { all: read.into_iter().enumerate().map(loaded).collect(), clock }
    }

    /// The request to `url` as it leaves, when it has anything of an operator's; none when it leaves as it is. In the URL of
    /// a redirect nothing stands for a secret.
    ///
    /// # Errors
    /// `denied` for a name that stands for no secret of this module and host, and for a header that is a credential's;
    /// `invalid-input` for a request that gets too large; `unavailable` for a credential that could not be read.
    pub fn armed(
        &self,
        module: &str,
        request: &Request,
        url: &Url,
        via: Via,
        exposed: &mut Exposed,
    ) -> Result<Option<(Request, Url)>, HostError> {
        let fits = |loaded: &&Loaded| via != Via::CrossOrigin && loaded.credential.is_for(module, url);
        let fitting: Vec<&Loaded> = self.all.iter().filter(fits).collect();
        let has_names =
            (via == Via::Module && is_in(&request.url)) || request.headers.iter().any(|header| is_in(&header.value));
        if fitting.is_empty() && !has_names {
            return Ok(None);
        }
        fitting.iter().for_each(|loaded| exposed.add(&loaded.forms));
        let fitting: Vec<&Credential> = fitting.into_iter().map(|loaded| &loaded.credential).collect();
        let hop = Hop { all: &self.all, fitting: &fitting, module, url, via };
        let to = if via == Via::Module { hop.url(&request.url)? } else { url.clone() };
        let mut headers = hop.headers(&request.headers)?;
        let body = request.body.as_deref().map(|body| hop.body(body)).transpose()?;
        for credential in &fitting {
            let added = |name: &str, value: String| Header { name: name.to_owned(), value };
            match &credential.adds {
                Adds::Nothing => {}
                Adds::Header(name) => headers.push(added(name, credential.text()?.to_owned())),
                Adds::Signature(signing) => {
                    let (method, body) = (request.method.as_str(), body.as_deref().unwrap_or_default());
                    let timestamp = signing.timestamp(self.clock.now_ms());
                    let signed = Signed { method, url: &to, body, timestamp: &timestamp };
                    let secret = |name: &str| hop.named(name).map(str::to_owned);
                    headers.push(added(&signing.header, signing.sign(credential.value()?, &signed, secret)?));
                    headers.extend(signing.timestamp_header.as_ref().map(|name| added(name, timestamp)));
                }
            }
        }
        let body = body.map(Cow::into_owned);
        let (method, url) = (request.method.clone(), request.url.clone());
        Ok(Some((Request { method, url, headers, body, timeout_ms: request.timeout_ms }, to)))
    }
}

/// A module, or a library as credentials name it, in words.
fn named(owner: &str) -> String {
    owner.split_once(':').map_or_else(|| format!("module {owner}"), |(what, name)| format!("{what} {name}"))
}

/// One hop of a request.
struct Hop<'a> {
    all: &'a [Loaded],
    /// Those of this module and this host.
    fitting: &'a [&'a Credential],
    module: &'a str,
    url: &'a Url,
    via: Via,
}

impl<'a> Hop<'a> {
    /// The secret of this name, if it is one for this hop.
    fn named(&self, name: &str) -> Result<&'a str, HostError> {
        let refused = |why: String| denied(format!("`${{secret:{name}}}`: {why} ([[egress.credentials]])"));
        let found = self.all.iter().map(|loaded| &loaded.credential).find(|credential| credential.is_named(name));
        let found = found.ok_or_else(|| refused("there is no secret of this name".to_owned()))?;
        if !found.is_of(self.module) {
            return Err(refused(format!("it is not for {}", named(self.module))));
        }
        if found.hosts.check(self.url).is_err() {
            let host = cut(self.url.host_str().unwrap_or_default(), NAME_BYTES_MAX);
            return Err(refused(format!("it is not for host `{host}`")));
        }
        if !found.is_for(self.module, self.url) {
            return Err(refused("it leaves over https alone, unless `allow_http = true`".to_owned()));
        }
        if self.via == Via::CrossOrigin {
            return Err(refused("a redirect led to another origin, and it stays with the first one".to_owned()));
        }
        if matches!(found.adds, Adds::Signature(_)) {
            return Err(refused("it is the key of a signature, which is written nowhere".to_owned()));
        }
        found.text()
    }

    /// The module's URL with its secrets. They stand in its path and query: the place that it leads to is the one that was
    /// checked.
    fn url(&self, given: &str) -> Result<Url, HostError> {
        if !is_in(given) {
            return Ok(self.url.clone());
        }
        let mut is_query = false;
        let written = filled(given, URL_BYTES_MAX, |url, piece| {
            match piece {
                Piece::Text(text) => {
                    is_query |= text.contains(['?', '#']);
                    url.push_str(text);
                }
                Piece::Secret(name) => url.push_str(&encoded(self.named(name)?, is_query)),
                Piece::Broken => return Err(broken()),
            }
            Ok(())
        })?;
        let elsewhere = || denied("a secret may stand in the path and the query of a URL, and nowhere before them");
        let url = Url::parse(&written).map_err(|_| elsewhere())?;
        let is_same = url.origin() == self.url.origin() && url.username().is_empty() && url.password().is_none();
        if is_same { Ok(url) } else { Err(elsewhere()) }
    }

    fn headers(&self, given: &[Header]) -> Result<Vec<Header>, HostError> {
        let (mut headers, mut bytes) = (Vec::with_capacity(given.len() + 1), 0);
        for Header { name, value } in given {
            let is_set = |set: &str| set.eq_ignore_ascii_case(name);
            if self.fitting.iter().any(|credential| credential.headers().any(is_set)) {
                let message =
                    format!("header `{name}` is the operator's to set ([[egress.credentials]]): leave it out");
                return Err(denied(message));
            }
            if !self.fitting.is_empty() && HIDING.iter().any(|hiding| hiding.eq_ignore_ascii_case(name)) {
                continue;
            }
            let value = filled(value, HEADER_BYTES_MAX, |out, piece| {
                match piece {
                    Piece::Text(text) => out.push_str(text),
                    Piece::Secret(name) => out.push_str(self.named(name)?),
                    Piece::Broken => return Err(broken()),
                }
                Ok(())
            })?;
            bytes += name.len() + value.len();
            headers.push(Header { name: name.clone(), value });
        }
        if bytes > HEADER_BYTES_MAX {
            let message = format!("with their secrets the headers have more than {HEADER_BYTES_MAX} bytes");
            return Err(HostError::new("http", HostErrorKind::InvalidInput, message));
        }
        if !self.fitting.is_empty() {
            headers.push(Header { name: HIDING[0].to_owned(), value: "identity".to_owned() });
        }
        Ok(headers)
    }

    /// A body with the secrets that may stand in one. Anything else in it is a text, which a stranger may have written: it
    /// neither gets a secret nor keeps the request from leaving.
    fn body<'b>(&self, given: &'b [u8]) -> Result<Cow<'b, [u8]>, HostError> {
        let may: Vec<&Credential> = self.fitting.iter().copied().filter(|credential| credential.body).collect();
        let text = std::str::from_utf8(given).ok().filter(|text| !may.is_empty() && is_in(text));
        let Some(text) = text else { return Ok(Cow::Borrowed(given)) };
        let written = filled(text, BODY_BYTES_MAX, |out, piece| {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Secret(name) if may.iter().any(|credential| credential.is_named(name)) => {
                    out.push_str(self.named(name)?);
                }
                Piece::Secret(name) => {
                    out.push_str(OPENING);
                    out.push_str(name);
                    out.push('}');
                }
                Piece::Broken => out.push_str(OPENING),
            }
            Ok(())
        })?;
        Ok(Cow::Owned(written.into_bytes()))
    }
}

#[cfg(test)]
mod tests;
