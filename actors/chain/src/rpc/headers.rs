//! Reading headers: which endpoint is asked, how many at once, and what of the answer is believed.

use std::sync::atomic::Ordering;

use futures::future::join_all;
use nexum_host_ifaces::{Hash, interfaces::chain::port::Final};
use serde_json::value::RawValue;

use super::{
    RpcBackend, Shared,
    endpoint::{Purpose, raw},
    errors::CallError,
    follow::by_number,
    shape::Refusal,
    wire,
};
use crate::{
    backend::Survey,
    config::Verify,
    header::Header,
    tracker::{Failure, Tag},
};

const OTHER_HEADER: &str = "a header that was not asked for";
/// A head without its seal is believed of an endpoint that is alone when it lies so near to what was read before.
const FORK_BLOCKS_MAX: u64 = 256;
const UNSEALED: &str = "a header whose hash is not that of its fields";

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Failed(error.message())
    }
}

/// What every node serves, and what it may not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderRequest {
    Blocks,
    /// Blocks that nothing links to the followed chain.
    History,
    Tags,
}

/// Whether a failed question may have been too large, and how sure that is.
pub(super) fn refusal(error: &CallError) -> Option<Refusal> {
    use nexum_host_ifaces::HostErrorKind::{Denied, InvalidInput, Timeout, Unavailable};
    match error {
        error if error.is_rate_limit() || error.is_unknown_block() => None,
        CallError::Node { .. } | CallError::TooLarge { .. } => Some(Refusal::Refused),
        error if error.is_nonsense() => Some(Refusal::Refused),
        CallError::Transport { kind: InvalidInput, .. } => Some(Refusal::Refused),
        CallError::Transport { kind: Denied | Timeout | Unavailable, .. } => Some(Refusal::Failed),
        _ => None,
    }
}

/// A block as it is named in an error.
fn named(numbers: &[u64]) -> String {
    match (numbers.first(), numbers.last()) {
        (Some(from), Some(to)) if from != to => format!("blocks {from} to {to}"),
        (Some(from), _) => format!("block {from}"),
        _ => "no block".to_owned(),
    }
}

impl Shared {
    pub(super) fn name(&self, index: usize) -> &str {
        &self.endpoints[index].name
    }

    /// Whether a head that an endpoint told is a header at all, as far as that can be told on this chain.
    pub(super) async fn is_believable(&self, index: usize, header: &Header) -> bool {
        if header.receipts_root.is_some() {
            self.trust().sealed();
            return true;
        }
        if !self.trust().expects_seal() {
            return true;
        }
        let now_ns = self.clock.monotonic_ns();
        let (order, others_are_up) = {
            let board = self.board();
            (board.order(now_ns), board.others_are_up(index))
        };
        let always = self.trust().verify == Verify::Always;
        for other in order.into_iter().filter(|other| *other != index && self.is_up(*other)) {
            match self.one_header(other, header.number).await {
                Ok(Some(found)) if found.receipts_root.is_some() => {
                    self.lied(index, UNSEALED);
                    return false;
                }
                Ok(Some(found)) if found.hash == header.hash && !always => {
                    self.learn_unsealed(header.number);
                    return true;
                }
                _ => {}
            }
        }
        // A hard fork goes on from where the chain was.
        let goes_on = header.number <= self.tip.load(Ordering::Relaxed).saturating_add(FORK_BLOCKS_MAX);
        if others_are_up {
            // Nobody bears it out. Should it be a hard fork, the next one that tells it finds this one to have it.
            self.lied(index, UNSEALED);
            return false;
        }
        if always || !goes_on {
            self.note(index, format!("its head {} has a hash that is not that of its fields", header.number));
            return false;
        }
        // What it says again is the chain's nature, as far as anybody can tell.
        let again = self.one_header(index, header.number).await;
        let same = again.is_ok_and(|again| again.is_some_and(|again| again.hash == header.hash));
        if same {
            self.learn_unsealed(header.number);
        }
        same
    }

    fn learn_unsealed(&self, number: u64) {
        if self.trust().unsealed() {
            let chain_id = self.config.chain_id;
            tracing::warn!(
                chain_id,
                number,
                "the headers of this chain cannot be proven: their hashes are not those of their fields"
            );
        }
    }

    /// Says of an endpoint why it is waited for.
    pub(super) fn note(&self, index: usize, what: String) {
        let what = self.secrets.clean(&what).into_owned();
        self.update(|board, _| board.note_error(index, what));
    }

    async fn one_header(&self, index: usize, number: u64) -> Result<Option<Header>, CallError> {
        let params = by_number(number)?;
        let request = [("eth_getBlockByNumber", &*params)];
        let mut answers = self.send(Purpose::SecondOpinion, index, &request, self.config.timeout, false).await?;
        let json = answers.pop().unwrap_or_else(|| Err(CallError::nonsense("it is empty")))?;
        let header = wire::header(json.get()).map_err(CallError::nonsense)?;
        Ok(header.filter(|header| header.number == number).map(|header| self.trusting(header)))
    }
}

impl RpcBackend {
    /// Asks every endpoint in turn, best first, until one has the first of these headers, and as many of those that follow
    /// as it takes at once.
    async fn first(
        &self,
        asked: HeaderRequest,
        requests: &[(&str, &RawValue)],
        highest: u64,
        wanted: impl Fn(&[Header]) -> bool,
    ) -> Result<Option<Vec<Header>>, CallError> {
        let mut result = Err(CallError::unavailable("no endpoint may be used"));
        // What was told without its seal, by whom.
        let mut unsealed: Vec<(usize, Vec<Header>)> = Vec::new();
        let order = self.shared.order();
        let (alone, count) = (order.len() == 1, order.len());
        // The most that anybody had, while another one may have all of it.
        let mut short: Option<Vec<Header>> = None;
        for (nth, index) in order.into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            let most = self.shared.endpoints[index].shape().batch.current();
            let mut answer = self.some_headers(index, asked, requests, highest).await;
            let lacks_seal = |found: &[Header]| {
                let lacks = found.iter().any(|header| header.receipts_root.is_none());
                lacks && asked != HeaderRequest::Tags && self.shared.trust().expects_seal()
            };
            // One that is alone is asked once more before it is believed about what nobody can prove.
            if alone && matches!(&answer, Ok(Some(found)) if lacks_seal(found)) {
                if let Ok(Some(found)) = answer {
                    unsealed.push((index, found));
                }
                answer = self.some_headers(index, asked, requests, highest).await;
            }
            match answer {
                Ok(Some(found)) if !wanted(&found) => {
                    self.shared.lied(index, OTHER_HEADER);
                    if result.is_err() {
                        result = Err(CallError::nonsense(OTHER_HEADER));
                    }
                }
                Ok(Some(found)) if lacks_seal(&found) => {
                    let same = unsealed.iter().any(|(_, other)| *other == found);
                    if same && self.shared.trust().verify != Verify::Always {
                        self.shared.learn_unsealed(found.first().map_or(0, |header| header.number));
                        return Ok(Some(found));
                    }
                    let what = format!("{}: {UNSEALED}", self.shared.name(index));
                    result = Err(CallError::nonsense(what));
                    unsealed.push((index, found));
                }
                Ok(Some(found)) => {
                    if !found.is_empty() && found.iter().all(|header| header.receipts_root.is_some()) {
                        self.shared.trust().sealed();
                        unsealed.iter().for_each(|(index, _)| self.shared.lied(*index, UNSEALED));
                    }
                    if (found.len() as u64) < most.min(requests.len() as u64) && nth + 1 < count {
                        short = short.into_iter().chain([found]).max_by_key(Vec::len);
                        continue;
                    }
                    return Ok(short.into_iter().chain([found]).max_by_key(Vec::len));
                }
                Ok(None) => result = Ok(None),
                Err(error) => {
                    if result.is_err() {
                        result = Err(error);
                    }
                }
            }
        }
        short.map_or(result, |found| Ok(Some(found)))
    }

    /// The first of these headers, as many as this endpoint has and takes at once. `None` when the first is not there.
    async fn some_headers(
        &self,
        index: usize,
        asked: HeaderRequest,
        requests: &[(&str, &RawValue)],
        highest: u64,
    ) -> Result<Option<Vec<Header>>, CallError> {
        loop {
            let most = usize::try_from(self.shared.endpoints[index].shape().batch.current()).unwrap_or(usize::MAX);
            let some = &requests[..requests.len().min(most.max(1))];
            let answer = match asked {
                HeaderRequest::History => self.ask_history(index, some, highest).await,
                _ => self.ask_headers(index, asked, some).await,
            };
            let size = some.len() as u64;
            let now_ns = self.shared.clock.monotonic_ns();
            let mut shape = self.shared.endpoints[index].shape();
            match &answer {
                Ok(_) => {
                    shape.batch.accepted(size, now_ns);
                    return answer;
                }
                Err(error) if size > 1 => {
                    let refusal = if error.is_rate_limit() { Some(Refusal::Failed) } else { refusal(error) };
                    if !refusal.is_some_and(|refusal| shape.batch.refused(size, refusal)) {
                        return answer;
                    }
                    tracing::debug!(endpoint = %self.shared.name(index), size, error = %self.shared.said(error), "a batch was refused");
                }
                Err(_) => return answer,
            }
        }
    }

    /// These headers, or those before the first that is not there. `None` when none of them is.
    pub(super) async fn ask_headers(
        &self,
        index: usize,
        asked: HeaderRequest,
        requests: &[(&str, &RawValue)],
    ) -> Result<Option<Vec<Header>>, CallError> {
        let batch = requests.len() > 1;
        let answers = self.shared.send(Purpose::Headers, index, requests, self.shared.config.timeout, batch).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) if error.is_unknown_block() => return Ok(None),
            Err(error) => {
                if asked != HeaderRequest::Tags {
                    self.refused(index, &error);
                }
                return Err(error);
            }
        };
        let mut headers = Vec::with_capacity(requests.len());
        for answer in answers {
            let json = match answer {
                Err(error) if error.is_unknown_block() => break,
                // A smaller batch may be answered; how it goes then is held against it.
                Err(error) if batch => return Err(error),
                answer => answer.inspect_err(|error| self.shared.let_down(index, error))?,
            };
            let header = wire::header(json.get()).map_err(CallError::nonsense);
            match header.inspect_err(|error| self.misread(index, error))? {
                Some(header) => headers.push(self.shared.trusting(header)),
                None => break,
            }
        }
        Ok(Some(headers).filter(|headers| !headers.is_empty()))
    }

    /// These headers from an endpoint that is on the followed chain; as if they were not there from any other. One may be
    /// stuck on a branch that everybody else has left, long enough ago that no link would show it.
    async fn ask_history(
        &self,
        index: usize,
        requests: &[(&str, &RawValue)],
        highest: u64,
    ) -> Result<Option<Vec<Header>>, CallError> {
        let (found, ours) =
            tokio::join!(self.ask_headers(index, HeaderRequest::History, requests), self.is_ours(index, highest));
        Ok(found?.filter(|_| matches!(ours, Ok(true))))
    }

    /// Whether what an endpoint says of blocks up to `highest` is of the followed chain, as far as can be told.
    pub(super) async fn is_ours(&self, index: usize, highest: u64) -> Result<bool, CallError> {
        // The one that is followed has what was followed.
        let Some(anchor) = self.shared.agreement().anchor(index, highest) else { return Ok(true) };
        let params = by_number(anchor.0)?;
        let found = self.ask_headers(index, HeaderRequest::History, &[("eth_getBlockByNumber", &*params)]).await?;
        let ours = found.is_some_and(|headers| headers.iter().all(|header| header.hash == anchor.1));
        if ours {
            self.shared.agreement().vouch(index, anchor);
        }
        Ok(ours)
    }

    /// An endpoint refused a read that every node serves. `Shared::send` lets that pass, for modules ask what they like.
    pub(super) fn refused(&self, index: usize, error: &CallError) {
        let excused = error.is_rate_limit() || error.is_too_large() || error.is_unknown_block();
        if matches!(error, CallError::Node { .. }) && !excused {
            self.shared.let_down(index, error);
        }
    }

    /// An answer that arrived cannot be used.
    pub(super) fn misread(&self, index: usize, error: &CallError) {
        self.shared.endpoints[index].went_wrong(error);
        self.shared.let_down(index, error);
    }

    pub(super) async fn read_header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        let params = raw(&(hash.to_string(), false))?;
        let is_wanted = |found: &[Header]| found.iter().all(|header| header.hash == hash);
        let found = self.first(HeaderRequest::Blocks, &[("eth_getBlockByHash", &params)], 0, is_wanted).await?;
        Ok(found.and_then(|mut headers| headers.pop()))
    }

    /// The block with a tag: of all endpoints that know the tag, the one that no more than half of them are behind. One that
    /// is not where the chain is has a say when there is nobody else: it may stay there for long.
    pub(super) async fn read_tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        self.shared.hear_the_other()?;
        let params = raw(&(if tag == Tag::Safe { "safe" } else { "finalized" }, false))?;
        let asked = self.shared.board().on_chain(self.shared.clock.monotonic_ns());
        let requests = [("eth_getBlockByNumber", &*params)];
        let answers =
            join_all(asked.into_iter().map(|index| self.ask_headers(index, HeaderRequest::Tags, &requests))).await;
        let (mut found, mut error) = (Vec::new(), None);
        for answer in answers {
            match answer {
                Ok(Some(headers)) => found.extend(headers),
                Ok(None) => {}
                Err(failed) => error = Some(failed),
            }
        }
        found.sort_by_key(|header| header.number);
        match (found.len().checked_sub(1), error) {
            (Some(last), _) => Ok(Some(found.swap_remove(last / 2))),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Ok(None),
        }
    }

    /// What the endpoints agree on of blocks that are safe or final. Each is asked for all of it at once: what one calls final
    /// says nothing about the blocks of another that is behind it, on a branch that is gone.
    pub(super) async fn read_finality(&self, tag: Tag, numbers: &[u64]) -> Result<Final, Failure> {
        self.shared.hear_the_other()?;
        let named = raw(&(if tag == Tag::Safe { "safe" } else { "finalized" }, false))?;
        let mut params = numbers.iter().map(|number| by_number(*number)).collect::<Result<Vec<_>, _>>()?;
        params.push(named);
        let requests: Vec<(&str, &RawValue)> =
            params.iter().map(|params| ("eth_getBlockByNumber", &**params)).collect();
        let asked: Vec<usize> = self.shared.order().into_iter().filter(|index| self.shared.is_up(*index)).collect();
        let on_chain = self.shared.board().on_chain(self.shared.clock.monotonic_ns());
        let answers = join_all(asked.iter().map(|index| self.all_headers(*index, &requests))).await;
        let (mut told, mut error) = (Vec::new(), CallError::unavailable("no endpoint may be used"));
        for (index, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(Some(mut headers)) => {
                    let through = headers.pop().map_or(0, |header| header.number);
                    told.push((through, headers, on_chain.contains(&index)));
                }
                Ok(None) => {}
                Err(failed) => error = failed,
            }
        }
        if told.is_empty() {
            return match error {
                CallError::Node { .. } => Ok(Final { through: None, hashes: vec![None; numbers.len()] }),
                error => Err(error.into()),
            };
        }
        // No more than half of those that know it are behind. One that is elsewhere may stay there for long; what it has says
        // whether a block is agreed on all the same.
        let any = told.iter().any(|(.., is_on_chain)| *is_on_chain);
        let counted = told.iter().filter(|(.., is_on_chain)| *is_on_chain || !any);
        let mut throughs: Vec<u64> = counted.map(|(through, ..)| *through).collect();
        throughs.sort_unstable();
        let through = throughs[(throughs.len() - 1) / 2];
        let agreed = |nth: usize, number: u64| {
            let reached = told.iter().filter(|(through, ..)| *through >= number);
            let mut hashes = reached.filter_map(|(_, headers, _)| headers.get(nth)).map(|header| header.hash);
            let first = hashes.next()?;
            hashes.all(|hash| hash == first).then_some(first)
        };
        let hashes = numbers.iter().enumerate().map(|(nth, number)| agreed(nth, *number)).collect();
        Ok(Final { through: Some(through), hashes })
    }

    /// All of these headers from one endpoint, however many it takes at once.
    async fn all_headers(
        &self,
        index: usize,
        requests: &[(&str, &RawValue)],
    ) -> Result<Option<Vec<Header>>, CallError> {
        let mut headers: Vec<Header> = Vec::with_capacity(requests.len());
        while headers.len() < requests.len() {
            match self.some_headers(index, HeaderRequest::Tags, &requests[headers.len()..], 0).await? {
                Some(some) => headers.extend(some),
                None => return Ok(None),
            }
        }
        Ok(Some(headers))
    }

    pub(super) async fn read_headers(&self, asked: HeaderRequest, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        let (mut headers, mut rest) = (Vec::with_capacity(numbers.len()), numbers);
        while !rest.is_empty() {
            let (chunk, _) = rest.split_at(rest.len().min(super::envelope::BATCH_MAX as usize));
            let params = chunk.iter().map(|number| by_number(*number)).collect::<Result<Vec<_>, _>>()?;
            let requests: Vec<_> = params.iter().map(|params| ("eth_getBlockByNumber", &**params)).collect();
            let are_wanted = |found: &[Header]| {
                !found.is_empty() && found.len() <= chunk.len() && found.iter().zip(chunk).all(|(h, n)| h.number == *n)
            };
            let highest = chunk.iter().copied().max().unwrap_or(0);
            let mut found = self.first(asked, &requests, highest, are_wanted).await?;
            if found.is_none() && chunk.len() > 1 {
                // What stands behind one address may have a block that was missing a moment ago.
                found = self.first(asked, &requests[..1], chunk[0], are_wanted).await?;
            }
            let found = found.ok_or_else(|| Failure::Failed(format!("no endpoint has all of {}", named(chunk))))?;
            rest = &rest[found.len()..];
            headers.extend(found);
        }
        Ok(headers)
    }

    /// What every endpoint says of these blocks, ascending.
    pub(super) async fn ask_everybody(&self, known: &[(u64, Hash)]) -> Survey {
        let now_ns = self.shared.clock.monotonic_ns();
        let asked: Vec<(usize, bool)> = {
            let board = self.shared.board();
            let up = board.order(now_ns).into_iter().filter(|index| board.is_up(*index));
            up.map(|index| (index, board.is_ahead(index))).collect()
        };
        let answers = join_all(asked.iter().map(|(index, _)| self.compare_known(*index, known))).await;
        let mut survey = Survey::default();
        for (answer, (_, is_ahead)) in answers.into_iter().zip(asked) {
            *match answer {
                Some(Known::Has) if is_ahead => &mut survey.ahead_have,
                Some(Known::Has) => &mut survey.have,
                Some(Known::Contradicts) => &mut survey.contradict,
                Some(Known::Lacks) => &mut survey.lack,
                None => &mut survey.silent,
            } += 1;
        }
        survey
    }

    async fn compare_known(&self, index: usize, known: &[(u64, Hash)]) -> Option<Known> {
        if !self.shared.serves_chain(index).await? {
            // What another chain has says nothing. Its own task refuses it.
            self.shared.doubt_chain(index);
            return None;
        }
        let (mut has, mut contradicts) = (false, false);
        for (number, hash) in known {
            match self.shared.one_header(index, *number).await {
                Ok(Some(header)) => {
                    has = header.hash == *hash;
                    contradicts |= !has;
                }
                Ok(None) => has = false,
                Err(error) if error.is_unknown_block() => has = false,
                Err(_) => return None,
            }
        }
        Some(match (has, contradicts) {
            (true, _) => Known::Has,
            (false, true) => Known::Contradicts,
            (false, false) => Known::Lacks,
        })
    }
}

/// What an endpoint says of blocks that are known.
enum Known {
    /// It has the newest of them.
    Has,
    Contradicts,
    Lacks,
}
