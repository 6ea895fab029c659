//! The gateway actor: opens the listeners when it starts, closes them when it stops.
//!
//! A listener that ends by itself ends the actor, so that its supervisor opens all of them anew.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use nexum_host_ifaces::{
    interfaces::{chain::port::ChainMsg, identity::port::IdentityMsg},
    port::Port,
    store::StoreMsg,
    transactions::TransactionsMsg,
};
use nexum_kernel::admin::AdminMsg;
use prometheus::Registry;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use subtle::ConstantTimeEq;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admin,
    listen::{self, SocketFile},
    logs::LogTap,
    metrics::GatewayMetrics,
    probes, serve,
};

/// Requests in flight get this long to finish when the gateway stops; the answer to a shutdown is one of them.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What the gateway serves, and where. A listener that is `None` is not opened.
#[derive(Clone)]
pub struct Args {
    pub health: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub admin_socket: Option<PathBuf>,
    pub admin_tcp: Option<AdminTcp>,
    pub admin: Port<AdminMsg>,
    pub store: Port<StoreMsg>,
    /// Absent where the engine has no accounts.
    pub accounts: Option<Accounts>,
    pub chains: Vec<Port<ChainMsg>>,
    pub registry: Registry,
    pub counted: GatewayMetrics,
    pub logs: LogTap,
}

/// The ways to what signs and sends.
#[derive(Clone)]
pub struct Accounts {
    pub identity: Port<IdentityMsg>,
    pub transactions: Port<TransactionsMsg>,
}

/// The admin API over TCP, for those who show the token.
#[derive(Clone, Debug)]
pub struct AdminTcp {
    pub address: SocketAddr,
    pub token: Token,
}

/// A bearer token; compared in constant time and never printed.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(token.into())
    }

    pub(crate) fn matches(&self, shown: &str) -> bool {
        !self.0.is_empty() && bool::from(self.0.as_bytes().ct_eq(shown.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where the gateway listens; what was asked for with port 0 has its real port here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub health: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub admin_tcp: Option<SocketAddr>,
    pub admin_socket: Option<PathBuf>,
}

#[derive(Debug)]
pub enum Msg {
    /// Must reply.
    Addresses(RpcReplyPort<Addresses>),
    /// A listener ended by itself.
    ListenerEnded(&'static str),
}

/// Starts the gateway under its supervisor. Fails when a listener cannot be opened.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<ActorRef<Msg>, SpawnErr> {
    Gateway::spawn_linked(None, Gateway, args, supervisor).await.map(|(actor, _)| actor)
}

pub struct Gateway;

/// Tells the gateway that a listener has ended, however it did: one that a panic has ended does not go unnoticed.
struct Ended {
    name: &'static str,
    gateway: ActorRef<Msg>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Not heard while the actor is stopping, which is when listeners are meant to end.
        let _ = self.gateway.cast(Msg::ListenerEnded(self.name));
    }
}

pub struct State {
    addresses: Addresses,
    listeners: JoinSet<()>,
    closing: watch::Sender<bool>,
    counted: GatewayMetrics,
    /// Removes the socket's file when the actor goes, however it goes.
    _socket: Option<SocketFile>,
}

impl State {
    fn serve<L>(&mut self, name: &'static str, listener: L, router: Router, myself: &ActorRef<Msg>)
    where
        L: Listener,
    {
        let served = serve::serve(listener, router, self.closing.subscribe(), self.counted.of(name));
        let ended = Ended { name, gateway: myself.clone() };
        self.listeners.spawn(async move {
            let _ended = ended;
            served.await;
        });
    }

    async fn close(&mut self) {
        self.closing.send_replace(true);
        let all = async { while self.listeners.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_DEADLINE, all).await.is_err() {
            self.listeners.shutdown().await;
        }
    }
}

impl Actor for Gateway {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { health, metrics, admin_socket, admin_tcp, admin, store, accounts, chains, registry, counted, logs } =
            args;
        let (closing, closed) = watch::channel(false);
        let (addresses, listeners) = (Addresses::default(), JoinSet::new());
        let mut state = State { addresses, listeners, closing, counted, _socket: None };
        let api =
            admin::Api { admin: admin.clone(), store, accounts, chains, registry: registry.clone(), logs, closed };
        if let Some(address) = health {
            let listener = listen::tcp("observability.health_listen", address).await?;
            state.addresses.health = Some(listener.local_addr()?);
            state.serve("health", listener, probes::health_router(admin), &myself);
        }
        if let Some(address) = metrics {
            let listener = listen::tcp("observability.metrics_listen", address).await?;
            state.addresses.metrics = Some(listener.local_addr()?);
            state.serve("metrics", listener, probes::metrics_router(registry), &myself);
        }
        if let Some(AdminTcp { address, token }) = admin_tcp {
            let listener = listen::tcp("observability.admin_listen", address).await?;
            state.addresses.admin_tcp = Some(listener.local_addr()?);
            state.serve("admin", listener, admin::router(api.clone(), Some(token)), &myself);
        }
        if let Some(path) = admin_socket {
            let (listener, file) = listen::unix("observability.admin_socket", &path).await?;
            state.addresses.admin_socket = Some(file.path().to_owned());
            state._socket = Some(file);
            state.serve("admin socket", listener, admin::router(api, None), &myself);
        }
        let Addresses { health, metrics, admin_tcp, admin_socket } = &state.addresses;
        tracing::info!(?health, ?metrics, ?admin_tcp, ?admin_socket, "listening");
        Ok(state)
    }

    async fn handle(&self, _: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Addresses(reply) => {
                let _ = reply.send(state.addresses.clone());
                Ok(())
            }
            Msg::ListenerEnded(name) => {
                // Closed before the error is told, so that the next gateway finds the addresses free.
                state.close().await;
                Err(format!("the {name} listener ended").into())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::DuplexStream, sync::mpsc};

    use super::*;

    /// Notes which listeners have ended.
    struct Hears;

    impl Actor for Hears {
        type Msg = Msg;
        type State = mpsc::Sender<&'static str>;
        type Arguments = mpsc::Sender<&'static str>;

        async fn pre_start(
            &self,
            _: ActorRef<Msg>,
            heard: mpsc::Sender<&'static str>,
        ) -> Result<mpsc::Sender<&'static str>, ActorProcessingErr> {
            Ok(heard)
        }

        async fn handle(
            &self,
            _: ActorRef<Msg>,
            message: Msg,
            heard: &mut mpsc::Sender<&'static str>,
        ) -> Result<(), ActorProcessingErr> {
            if let Msg::ListenerEnded(name) = message {
                heard.send(name).await?;
            }
            Ok(())
        }
    }

    /// Breaks at its first connection.
    struct Breaks;

    impl Listener for Breaks {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            panic!("it breaks")
        }

        fn local_addr(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_listener_that_a_panic_ends_is_heard_of() {
        let (heard, mut hears) = mpsc::channel(1);
        let (gateway, _) = Actor::spawn(None, Hears, heard).await.unwrap();
        let (closing, _) = watch::channel(false);
        let (addresses, listeners) = (Addresses::default(), JoinSet::new());
        let counted = GatewayMetrics::register(&Registry::new()).unwrap();
        let mut state = State { addresses, listeners, closing, counted, _socket: None };
        state.serve("admin", Breaks, Router::new(), &gateway);
        assert_eq!(hears.recv().await, Some("admin"));
        gateway.stop(None);
    }

    #[test]
    fn only_the_whole_token_matches_and_an_empty_one_matches_nothing() {
        let token = Token::new("s3cret");
        assert!(token.matches("s3cret"));
        for shown in ["", "s", "s3cre", "3cret", "s3creT", "x3cret", "s3crets", "s3crets3cret", "s3cret\0", " s3cret"] {
            assert!(!token.matches(shown), "{shown:?}");
        }
        assert!(!Token::new("").matches(""), "nobody is let in because nothing was set");
        assert!(!Token::new("").matches("s3cret"));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
