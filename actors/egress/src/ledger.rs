//! What went where: requests, errors and bytes by origin.
//!
//! Invariant: no more than `ORIGINS_MAX` origins are kept apart, however many names modules make up. The one that
//! nothing went to for longest makes place for a new one, and what it had is counted with all the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use nexum_host_ifaces::{
    HostError, clock::Clock, interfaces::http::port::OriginStatus, secrets::shown_url, sync::lock,
};
use url::Url;

/// So many stand below one another in the tree.
const ORIGINS_MAX: usize = 64;
/// The name of what has no place of its own.
const OTHERS: &str = "others";

/// Scheme, host and port, as they may be shown: of a name that looks like a key not even that.
pub(crate) type Origin = Arc<str>;

#[derive(Default)]
struct Account {
    requests: u64,
    errors: u64,
    sent_bytes: u64,
    received_bytes: u64,
    /// The last one, and when.
    error: Option<(String, u64)>,
    /// Which request of all was the last one.
    used: u64,
}

impl Account {
    /// Takes over what another one has.
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        let since = |error: &Option<(String, u64)>| error.as_ref().map(|(_, at_ns)| *at_ns);
        if since(&other.error) > since(&self.error) {
            self.error = other.error;
        }
    }
}

#[derive(Default)]
struct Table {
    origins: BTreeMap<Origin, Account>,
    others: Account,
    /// Requests of all.
    requests: u64,
}

/// The accounts of all origins. It ends with its actor.
pub(crate) struct Ledger {
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
}

impl Ledger {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, table: Mutex::default() }
    }

    /// A request, or what a redirect makes of it, is on its way with a body of this size.
    pub fn begun(&self, url: &Url, body_bytes: usize) -> Origin {
        let origin: Origin = shown_url(&url.origin().ascii_serialization()).into();
        let mut table = lock(&self.table);
        let Table { origins, others, requests } = &mut *table;
        if origins.len() >= ORIGINS_MAX && !origins.contains_key(&origin) {
            let oldest = origins.iter().min_by_key(|(_, account)| account.used).map(|(origin, _)| origin.clone());
            if let Some(account) = oldest.and_then(|oldest| origins.remove(&oldest)) {
                others.add(account);
            }
        }
        *requests += 1;
        let account = origins.entry(origin.clone()).or_default();
        account.used = *requests;
        account.requests += 1;
        account.sent_bytes += body_bytes as u64;
        origin
    }

    /// It has ended there: so much of a body came, and this is why there is no answer, if so.
    pub fn ended(&self, origin: &Origin, received_bytes: usize, failed: Option<&HostError>) {
        let now_ns = self.clock.monotonic_ns();
        let mut table = lock(&self.table);
        let Table { origins, others, .. } = &mut *table;
        let account = origins.get_mut(origin).unwrap_or(others);
        account.received_bytes += received_bytes as u64;
        if let Some(error) = failed {
            account.errors += 1;
            account.error = Some((format!("{}: {}", error.kind.name(), error.message), now_ns));
        }
    }

    /// By name, and all others last.
    pub fn status(&self) -> Vec<OriginStatus> {
        let now_ns = self.clock.monotonic_ns();
        let told = |(name, account): (&str, &Account)| OriginStatus {
            name: name.to_owned(),
            requests_total: account.requests,
            errors_total: account.errors,
            sent_bytes: account.sent_bytes,
            received_bytes: account.received_bytes,
            last_error: account.error.as_ref().map(|(error, _)| error.clone()),
            last_error_age_ms: account.error.as_ref().map(|(_, at_ns)| now_ns.saturating_sub(*at_ns) / 1_000_000),
        };
        let table = lock(&self.table);
        let others = (table.others.requests > 0).then_some((OTHERS, &table.others));
        table.origins.iter().map(|(origin, account)| (&**origin, account)).chain(others).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nexum_host_ifaces::HostErrorKind;

    use super::*;

    /// A clock that goes on by a second whenever it is read.
    #[derive(Default)]
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.fetch_add(1_000_000_000, Ordering::Relaxed)
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn named<'a>(status: &'a [OriginStatus], name: &str) -> &'a OriginStatus {
        status.iter().find(|origin| origin.name == name).unwrap_or_else(|| panic!("no {name} in {status:?}"))
    }

    #[test]
    fn every_origin_has_an_account_without_paths_and_keys() {
        let ledger = Ledger::new(Arc::new(Ticking::default()));
        let failed = HostError::new("http", HostErrorKind::Unavailable, "https://a.org: connection refused");
        let origin = ledger.begun(&url("https://a.org/k3y?k3y"), 10);
        ledger.ended(&origin, 0, Some(&failed));
        let origin = ledger.begun(&url("https://a.org:443/"), 5);
        ledger.ended(&origin, 100, None);
        let origin = ledger.begun(&url("http://a.org:8080/"), 0);
        ledger.ended(&origin, 1, None);
        ledger.begun(&url("https://4c0883a69102937d6231471b5dbb6204fe51.example.org/"), 0);
        let status = ledger.status();
        let names: Vec<&str> = status.iter().map(|origin| origin.name.as_str()).collect();
        assert_eq!(names, ["http://a.org:8080", "https://***.example.org", "https://a.org"]);
        let found = named(&status, "https://a.org");
        assert_eq!((found.requests_total, found.errors_total), (2, 1));
        assert_eq!((found.sent_bytes, found.received_bytes), (15, 100));
        assert_eq!(found.last_error.as_deref(), Some("unavailable: https://a.org: connection refused"));
        // Read twice since, and once for this.
        assert_eq!(found.last_error_age_ms, Some(3_000));
    }

    #[test]
    fn names_without_end_have_accounts_with_an_end_and_nothing_is_lost() {
        let ledger = Ledger::new(Arc::new(Ticking::default()));
        let failed = HostError::new("http", HostErrorKind::Timeout, "late");
        for n in 0..ORIGINS_MAX * 10 {
            // Used all the time, so that it stays.
            let busy = ledger.begun(&url("https://busy.example.org"), 1);
            ledger.ended(&busy, 1, None);
            let made_up = ledger.begun(&url(&format!("https://{n}.example.org")), 1);
            ledger.ended(&made_up, 0, Some(&failed));
        }
        let first: Origin = "https://0.example.org".into();
        ledger.ended(&first, 7, None);
        let status = ledger.status();
        assert_eq!(status.len(), ORIGINS_MAX + 1);
        let total = (ORIGINS_MAX * 10) as u64;
        assert_eq!(named(&status, "https://busy.example.org").requests_total, total);
        let others = status.last().unwrap();
        assert_eq!((others.name.as_str(), others.last_error.as_deref()), ("others", Some("timeout: late")));
        assert_eq!((others.requests_total, others.errors_total), (total - 63, total - 63));
        assert_eq!(others.received_bytes, 7, "an origin that has lost its place is one of the others");
        let sum = |count: fn(&OriginStatus) -> u64| status.iter().map(count).sum::<u64>();
        assert_eq!((sum(|origin| origin.requests_total), sum(|origin| origin.errors_total)), (2 * total, total));
        assert_eq!(sum(|origin| origin.sent_bytes), 2 * total);
    }
}
