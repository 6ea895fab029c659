//! What one endpoint says of a range of blocks.

use std::time::Duration;

use nexum_host_ifaces::{Hash, types::Log};
use serde_json::{Value, json};

use crate::{
    filter::Union,
    header::Header,
    rpc::{
        RpcBackend,
        endpoint::Purpose,
        errors::CallError,
        follow::by_number,
        headers::{HeaderRequest, refusal},
        logs::{doubts_about, of},
        shape::Refusal,
        wire,
    },
};

/// One endpoint's answer about a range.
pub(in crate::rpc) struct Told {
    pub index: usize,
    pub to: u64,
    pub(super) logs: Vec<wire::ReadLog>,
    /// The hash of the last block.
    pub(super) end_hash: Hash,
}

impl Told {
    pub fn logs(&self) -> Vec<Log> {
        self.logs.iter().map(|read| read.log.clone()).collect()
    }
}

impl RpcBackend {
    /// One endpoint's answer about as much of a range as it takes. `None` when the endpoint does not have the last block:
    /// it would leave out what it has not seen, without a word.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to one question")]
    pub(in crate::rpc) async fn told_of_range(
        &self,
        index: usize,
        from: u64,
        to: u64,
        union: &Union,
        known: &[Header],
        patience: Duration,
        purpose: Purpose,
    ) -> Result<Option<Told>, CallError> {
        loop {
            let (span, most) = {
                let shape = self.shared.endpoints[index].shape();
                (shape.range.current().max(1), shape.list.current())
            };
            let to = to.min(from.saturating_add(span - 1));
            let size = to - from + 1;
            let parts = union.parts(most);
            let list = parts.iter().map(Union::longest_list).max().unwrap_or(0);
            let answer = self.range_from(index, from, to, union, &parts, known, patience, purpose).await;
            let now_ns = self.shared.clock.monotonic_ns();
            let answers = self.shared.endpoints[index].answers();
            let mut shape = self.shared.endpoints[index].shape();
            let error = match answer {
                Ok(told) => {
                    shape.range.accepted(size, now_ns);
                    shape.list.accepted(list, now_ns);
                    return Ok(told);
                }
                Err(error) => error,
            };
            let refusal = match refusal(&error) {
                Some(refusal) => refusal,
                None if matches!(error, CallError::Paced { .. }) || !shape.may_be_size(answers) => return Err(error),
                // Whatever it says, it says so of ranges.
                None => Refusal::Failed,
            };
            let smaller = match size {
                1 if list > 1 => shape.list.refused(list, refusal),
                1 => {
                    shape.range.refused(1, refusal);
                    shape.list.refused(1, refusal);
                    false
                }
                _ => shape.range.refused(size, refusal),
            };
            drop(shape);
            tracing::debug!(endpoint = %self.shared.name(index), from, to, list, error = %self.shared.said(&error), "a range was refused");
            if !smaller {
                self.refused(index, &error);
                return Err(error);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "all of it belongs to one question")]
    async fn range_from(
        &self,
        index: usize,
        from: u64,
        to: u64,
        union: &Union,
        parts: &[Union],
        known: &[Header],
        patience: Duration,
        purpose: Purpose,
    ) -> Result<Option<Told>, CallError> {
        let known_end = known.iter().rev().find(|header| header.number == to).map(|header| header.hash);
        let params = by_number(to)?;
        let request = [("eth_getBlockByNumber", &*params)];
        let end = async {
            match known_end {
                Some(_) => Ok(known_end),
                None => {
                    let found = self.ask_headers(index, HeaderRequest::Blocks, &request).await?;
                    let found = found.into_iter().flatten().find(|header| header.number == to);
                    Ok::<_, CallError>(found.map(|header| header.hash))
                }
            }
        };
        let logs = async {
            let mut logs = Vec::new();
            for part in parts {
                let mut filter = part.to_json();
                filter.insert("fromBlock".into(), json!(format!("{from:#x}")));
                filter.insert("toBlock".into(), json!(format!("{to:#x}")));
                let block = (from == to).then_some(from);
                logs.extend(self.ask_logs(index, purpose, Value::Object(filter), block, true, patience).await?);
            }
            if parts.len() > 1 {
                logs = self.joined(index, logs)?;
            }
            Ok::<_, CallError>(logs)
        };
        let had_it = self.shared.has_told(index, to);
        let (end, logs) = if had_it {
            tokio::join!(end, logs)
        } else {
            // It may get the block any moment now: only logs asked for afterwards are all of them. That it has a block
            // which is known it has to say itself.
            let found = self.ask_headers(index, HeaderRequest::Blocks, &request).await?;
            let end = found.into_iter().flatten().find(|header| header.number == to).map(|header| header.hash);
            if end.is_none() {
                return Ok(None);
            }
            (Ok(end), logs.await)
        };
        // Logs of another branch name other blocks, and nobody would know.
        if !self.is_ours(index, to).await? {
            return Ok(None);
        }
        let logs = logs?;
        let end = end?;
        if had_it && known_end.is_some() && seems_to_lack(&logs, from, to, union, known) {
            // Whatever stands behind an address may have had the block once, and not now.
            let found = self.ask_headers(index, HeaderRequest::Blocks, &request).await?;
            if found.into_iter().flatten().all(|header| Some(header.hash) != end) {
                return Ok(None);
            }
        }
        Ok(end.map(|end_hash| Told { index, to, logs, end_hash }))
    }
}

/// Whether a known header speaks against an answer.
fn seems_to_lack(logs: &[wire::ReadLog], from: u64, to: u64, union: &Union, known: &[Header]) -> bool {
    let logs: Vec<Log> = logs.iter().map(|read| read.log.clone()).collect();
    let mut within = known.iter().filter(|header| (from..=to).contains(&header.number));
    within.any(|header| doubts_about(header, union, of(header.number, &logs)).any())
}
