//! What requests are carried out with, each in a task of its own.
//!
//! Invariant: a signature is made only after what it counts is durable. Requests of one intent go one after another. When a write
//! fails, or nobody knows whether it did, the book is read from the store again before anything else is decided.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    blocking::Blocking,
    clock::Clock,
    interfaces::identity::port::{
        AccountSignature, Admission, Approval, AuditEntry, FeedUpdate, IdentityStatus, Purpose, SignatureAnswer,
        SignedTransaction, SigningPayload, TransactionRequest, UnsignedTransaction,
    },
    port::{Port, PortError},
    store::{RecordWrite, Records, StoreMsg},
    sync::{lock, read, write},
};
use tokio::sync::{OwnedMutexGuard, RwLockReadGuard};

use crate::{
    approvals::IntentKey,
    book::{APPROVAL, Asked, Book, SIGNATURE, Step, refusal_error},
    config::Settings,
    metrics::IdentityMetrics,
    policy::Policies,
    request::{Request, Unsigned, error, is_empty, of_call, of_feed, of_payload},
    signer::{self, Signer, Signers},
};

/// The name that records are kept under.
const SERVICE: &str = "identity";
/// The store answers within milliseconds; it may be compacting.
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// Records that are read at once. The store answers with 64 MiB at most: a signature has some hundred bytes, and an approval
/// what is to be signed.
const SIGNATURES_PAGE: usize = 1_000;
const APPROVALS_PAGE: usize = 32;
/// Between two attempts to read the records, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub struct Service {
    policies: Policies,
    store: Port<StoreMsg>,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    metrics: IdentityMetrics,
    /// None until the key files have been opened.
    signers: RwLock<Option<Signers>>,
    /// None until the store has been read.
    book: Mutex<Option<Book>>,
    /// Held by whoever changes the book until that is durable; alone by whoever reads it from the store.
    gate: tokio::sync::RwLock<()>,
    turns: Mutex<HashMap<IntentKey, Arc<tokio::sync::Mutex<()>>>>,
    signatures_total: AtomicU64,
    refusals_total: AtomicU64,
}

impl Service {
    pub fn new(
        policies: Policies,
        store: Port<StoreMsg>,
        clock: Arc<dyn Clock>,
        blocking: Blocking,
        metrics: IdentityMetrics,
    ) -> Self {
        Self {
            policies,
            store,
            clock,
            blocking,
            metrics,
            signers: RwLock::default(),
            book: Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            turns: Mutex::default(),
            signatures_total: AtomicU64::new(0),
            refusals_total: AtomicU64::new(0),
        }
    }

    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Opens the keys of the accounts that policies name.
    pub async fn open_signers(&self, settings: Settings) {
        let wanted = self.policies.all_accounts();
        let (clock, blocking) = (self.clock.clone(), self.blocking);
        let opened = blocking.run(move || Signers::open(&settings, &wanted, &clock, blocking)).await;
        // A panic is said by whoever catches it; then there are no keys.
        *write(&self.signers) = Some(opened.unwrap_or_default());
    }

    /// Reads the records until that works, so that what waits is shown after a start.
    pub async fn read_records(&self) {
        let mut wait = RETRY_FIRST;
        while let Err(failed) = self.ready().await.map(drop) {
            tracing::debug!("identity waits for its records: {}", failed.message);
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
        self.show_waiting();
    }

    /// Waits until the book is there, and keeps it from being read anew.
    async fn ready(&self) -> Result<RwLockReadGuard<'_, ()>, HostError> {
        let gate = self.gate.read().await;
        if lock(&self.book).is_some() {
            return Ok(gate);
        }
        drop(gate);
        let alone = self.gate.write().await;
        let is_missing = lock(&self.book).is_none();
        if is_missing {
            let book = self.book_of_store().await?;
            *lock(&self.book) = Some(book);
        }
        Ok(alone.downgrade())
    }

    async fn book_of_store(&self) -> Result<Book, HostError> {
        let (signatures, approvals) =
            (self.records(SIGNATURE, SIGNATURES_PAGE).await?, self.records(APPROVAL, APPROVALS_PAGE).await?);
        Book::read(signatures, approvals).map_err(|why| {
            tracing::error!("identity signs nothing, because it cannot read what it kept: {why}");
            error(HostErrorKind::Unavailable, format!("what was kept cannot be read: {why}"))
        })
    }

    async fn records(&self, prefix: &str, limit: usize) -> Result<Records, HostError> {
        let mut all = Records::new();
        loop {
            let (prefix, after) = (prefix.as_bytes().to_vec(), all.last().map(|(key, _)| key.clone()));
            let page = |reply| StoreMsg::Records { service: SERVICE, prefix, after, limit, reply };
            let page = self.store.call(STORE_DEADLINE, page).await.map_err(no_store)?;
            let page = page.map_err(|failed| error(HostErrorKind::Unavailable, failed.to_string()))?;
            let is_last = page.len() < limit;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    fn with_book<T>(&self, act: impl FnOnce(&mut Book) -> T) -> Result<T, HostError> {
        let gone = || error(HostErrorKind::Unavailable, "what was counted is being read from the store; try again");
        lock(&self.book).as_mut().map(act).ok_or_else(gone)
    }

    async fn write(&self, writes: Vec<RecordWrite>) -> Result<(), HostError> {
        if writes.is_empty() {
            return Ok(());
        }
        let write = |reply| StoreMsg::WriteRecords { service: SERVICE, writes, reply };
        let failed = match self.store.call(STORE_DEADLINE, write).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => error(HostErrorKind::Unavailable, refused.to_string()),
            Err(failed) => no_store(failed),
        };
        // Whether it was written or not: the store knows.
        *lock(&self.book) = None;
        Err(failed)
    }

    async fn turn(&self, module: &str, intent: Option<&str>) -> Option<OwnedMutexGuard<()>> {
        let key = (module.to_owned(), intent?.to_owned());
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(key).or_default().clone()
        };
        Some(turn.lock_owned().await)
    }

    /// Decides, and makes durable what comes of it.
    async fn decide_on(&self, asked: Asked<'_>) -> Result<Admission, HostError> {
        let _gate = self.ready().await?;
        let now = self.clock.now_ms();
        let step = self.with_book(|book| book.step(&self.policies, asked, now))?;
        let (writes, answer) = match step {
            Step::Granted(writes) => (writes, Ok(Admission::Allowed)),
            Step::Waits { number, expires_at_ms, writes } => {
                if !writes.is_empty() {
                    tracing::warn!(module = asked.module, number, "a signature waits for the operator's approval");
                }
                (writes, Ok(Admission::AwaitsApproval { number, expires_at_ms }))
            }
            Step::Refused { error, writes } => (writes, Err(error)),
        };
        self.write(writes).await?;
        self.show_waiting();
        answer
    }

    /// The signer of an account. A module that no policy gives the account hears that instead of what is wrong with its key.
    fn signer(&self, module: &str, account: Address) -> Result<Option<Arc<dyn Signer>>, HostError> {
        if !self.policies.accounts(module, None).contains(&account) {
            return Ok(None);
        }
        let unavailable = |message: String| error(HostErrorKind::Unavailable, message);
        match read(&self.signers).as_ref() {
            None => Err(unavailable("the keys are being opened".to_owned())),
            Some(signers) => match signers.of.get(&account) {
                Some(signer) => Ok(Some(signer.clone())),
                None => Err(unavailable(format!("there is no key of account {account} here"))),
            },
        }
    }

    async fn signature(
        &self,
        signer: Option<Arc<dyn Signer>>,
        asked: Asked<'_>,
        preimage: &[u8],
    ) -> Result<alloy_primitives::Signature, HostError> {
        let Some(signer) = signer else { unreachable!("granted to a module that no policy gives the account") };
        let account = asked.request.account;
        let signature = signer::sign(&*signer, account, preimage).await?;
        self.signatures_total.fetch_add(1, Ordering::Relaxed);
        self.metrics.signed(asked.module, account);
        Ok(signature)
    }

    pub async fn sign(
        &self,
        module: &str,
        account: Address,
        payload: SigningPayload,
        intent: Option<String>,
    ) -> Result<SignatureAnswer, HostError> {
        let _turn = self.turn(module, intent.as_deref()).await;
        let read = self.blocking.run(move || of_payload(account, payload)).await;
        let (request, preimage) =
            read.map_err(|failed| error(HostErrorKind::Internal, format!("reading what is to be signed: {failed}")))??;
        let signer = self.signer(module, account)?;
        let may_ask = intent.is_some();
        let (intent, request, purpose) = (intent.as_deref(), &request, Purpose::Asked);
        let asked = Asked { module, intent, request, purpose, signs: true, may_ask };
        match self.decide_on(asked).await? {
            Admission::AwaitsApproval { number, expires_at_ms } => {
                Ok(SignatureAnswer::AwaitsApproval { number, expires_at_ms })
            }
            Admission::Allowed => {
                let signature = self.signature(signer, asked, &preimage).await?;
                Ok(SignatureAnswer::Signed(Box::new(signature.as_bytes())))
            }
        }
    }

    pub async fn sign_feed(
        &self,
        module: &str,
        account: Address,
        update: FeedUpdate,
    ) -> Result<Box<AccountSignature>, HostError> {
        let (request, preimage) = of_feed(account, update);
        let signer = self.signer(module, account)?;
        let (request, purpose) = (&request, Purpose::Asked);
        let asked = Asked { module, intent: None, request, purpose, signs: true, may_ask: false };
        match self.decide_on(asked).await? {
            Admission::AwaitsApproval { number, .. } => unreachable!("request {number} was not to be asked for"),
            Admission::Allowed => Ok(Box::new(self.signature(signer, asked, &preimage).await?.as_bytes())),
        }
    }

    pub async fn admit(&self, module: &str, intent: &str, call: &TransactionRequest) -> Result<Admission, HostError> {
        let _turn = self.turn(module, Some(intent)).await;
        let request = of_call(call)?;
        self.signer(module, call.account)?;
        let (intent, request, purpose) = (Some(intent), &request, Purpose::Asked);
        self.decide_on(Asked { module, intent, request, purpose, signs: false, may_ask: true }).await
    }

    pub async fn sign_transaction(
        &self,
        module: &str,
        intent: &str,
        transaction: &UnsignedTransaction,
    ) -> Result<SignedTransaction, HostError> {
        let _turn = self.turn(module, Some(intent)).await;
        let (call, purpose) = (&transaction.request, transaction.purpose);
        if purpose == Purpose::Empty && !is_empty(call) {
            return Err(error(HostErrorKind::InvalidInput, "what uses up a nonce may move nothing anywhere"));
        }
        let unsigned = Unsigned::new(transaction)?;
        let (fee_per_gas, fee) = (Some(transaction.fees.per_gas_max()), Some(unsigned.fee()));
        let request = Request { fee_per_gas, fee, ..of_call(call)? };
        let signer = self.signer(module, call.account)?;
        let (intent, request) = (Some(intent), &request);
        let asked = Asked { module, intent, request, purpose, signs: true, may_ask: false };
        match self.decide_on(asked).await? {
            Admission::AwaitsApproval { .. } => unreachable!("nobody may be asked"),
            Admission::Allowed => {
                let signature = self.signature(signer, asked, &unsigned.preimage()).await?;
                Ok(unsigned.signed(signature))
            }
        }
    }

    pub fn fee_ceiling(&self, module: &str, call: &TransactionRequest) -> Result<Option<u128>, HostError> {
        let request = of_call(call)?;
        let covering = self.policies.covering(&request, module);
        let policy = covering.map_err(|refusal| refusal_error(refusal, self.clock.now_ms()))?;
        Ok(self.policies.get(policy).max_fee_per_gas)
    }

    pub async fn approvals(&self, limit: usize) -> Result<Vec<Approval>, HostError> {
        let _gate = self.ready().await?;
        let now = self.clock.now_ms();
        self.with_book(|book| book.approvals(limit, now))
    }

    pub async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, HostError> {
        let _gate = self.ready().await?;
        self.with_book(|book| book.audit(limit))
    }

    pub async fn decide(&self, number: u64, approve: bool, by: &str) -> Result<Approval, HostError> {
        drop(self.ready().await?);
        let key = self.with_book(|book| book.intent_of(number))?;
        let (module, intent) = key.unwrap_or_default();
        let _turn = self.turn(&module, Some(&intent)).await;
        let _gate = self.ready().await?;
        let now = self.clock.now_ms();
        let (approval, in_time, write) = self.with_book(|book| book.decide(number, approve, by, now))??;
        self.write(vec![write]).await?;
        self.show_waiting();
        tracing::info!(number, module = approval.module, by, state = ?approval.state, "decided on an approval");
        match in_time {
            true => Ok(approval),
            false => Err(error(HostErrorKind::InvalidInput, crate::approvals::expired(number))),
        }
    }

    fn show_waiting(&self) {
        let now = self.clock.now_ms();
        if let Ok(waiting) = self.with_book(|book| book.waiting(now)) {
            self.metrics.show_waiting(waiting);
        }
    }

    pub fn refused(&self, module: &str, error: &HostError) {
        self.refusals_total.fetch_add(1, Ordering::Relaxed);
        self.metrics.refused(module, error.kind.name());
    }

    pub fn status(&self) -> IdentityStatus {
        let now = self.clock.now_ms();
        let waiting = self.with_book(|book| book.waiting(now));
        let mut status = IdentityStatus {
            signatures_total: self.signatures_total.load(Ordering::Relaxed),
            refusals_total: self.refusals_total.load(Ordering::Relaxed),
            ..IdentityStatus::default()
        };
        match waiting {
            Ok((waiting, oldest)) => {
                self.metrics.show_waiting((waiting, oldest));
                status.approvals_waiting = waiting;
                status.oldest_approval_age_ms = oldest.map(|asked| now.saturating_sub(asked));
            }
            Err(_) => {
                status.problems.push("what was counted has not been read from the store: nothing is signed".to_owned())
            }
        }
        match read(&self.signers).as_ref() {
            Some(Signers { of, problems }) => {
                let shown =
                    |(account, signer): (&Address, &Arc<dyn Signer>)| (account.to_string(), signer.kind().to_owned());
                status.accounts = of.iter().map(shown).collect();
                status.problems.extend(problems.iter().cloned());
            }
            None => status.problems.push("the keys are being opened".to_owned()),
        }
        status
    }
}

fn no_store(failed: PortError) -> HostError {
    error(HostErrorKind::Unavailable, format!("nothing is signed that cannot be written down: {failed}"))
}
