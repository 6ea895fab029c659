//! The journal: pages of it, single units, and the whole as an export.

use std::convert::Infallible;

use axum::{
    Json, Router,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::stream;
use nexum_host_ifaces::{
    journal::{JournalPage, JournalStart, RewindRecord},
    store::StoreMsg,
};
use serde::Deserialize;

use super::{Api, READ_DEADLINE, within};
use crate::{
    api::journal::{ExportEnd, ExportHeader, JournalKey, JournalList, JournalUnit, Line},
    error::ApiError,
};

/// Entries of a page when the caller does not say.
const PAGE_DEFAULT: usize = 100;
/// Entries of a page at most, and of one step of an export.
const PAGE_MAX: usize = 1000;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/journal/key", get(key))
        .route("/v1/modules/{name}/journal", get(list))
        .route("/v1/modules/{name}/journal/export", get(export))
        .route("/v1/modules/{name}/journal/{seq}", get(unit))
}

async fn key(State(api): State<Api>) -> Result<Json<JournalKey>, ApiError> {
    let status = api.store.call(READ_DEADLINE, StoreMsg::Status).await?;
    Ok(Json(JournalKey { key: status.journal_key }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// The first unit wanted; absent: the newest ones.
    from: Option<u64>,
    limit: Option<usize>,
}

async fn page(api: &Api, name: &str, start: JournalStart, limit: usize) -> Result<JournalPage, ApiError> {
    let name = name.to_owned();
    Ok(api.store.call(READ_DEADLINE, |reply| StoreMsg::JournalPage { name, start, limit, reply }).await??)
}

async fn list(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<JournalList>, ApiError> {
    let Path(name) = name?;
    let Query(PageQuery { from, limit }) = query?;
    let limit = within("limit", limit.unwrap_or(PAGE_DEFAULT), 1..=PAGE_MAX)?;
    let start = from.map_or(JournalStart::Newest, JournalStart::At);
    Ok(Json(page(&api, &name, start, limit).await?.into()))
}

async fn unit(
    State(api): State<Api>,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Json<JournalUnit>, ApiError> {
    let Path((name, seq)) = path?;
    let unit = api.store.call(READ_DEADLINE, |reply| StoreMsg::JournalUnit { name, seq, reply }).await??;
    Ok(Json(unit.into()))
}

/// The kept journal as NDJSON, read page by page; it ends with what was the newest unit at its start.
async fn export(State(api): State<Api>, name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let first = page(&api, &name, JournalStart::At(0), PAGE_MAX).await?;
    let module = name.clone();
    let rewinds = api.store.call(READ_DEADLINE, |reply| StoreMsg::Rewinds { name, reply }).await??;
    let header = ExportHeader::new(&module, &first);
    let mut export = Export { api, header, end: ExportEnd { entries: 0, receipts: 0 }, next: Some(first) };
    let opening = export.opening(rewinds);
    let rest = stream::unfold(export, async |mut export| {
        let lines = export.step().await?;
        Some((Ok::<_, Infallible>(lines), export))
    });
    let body = stream::StreamExt::chain(stream::iter([Ok(opening)]), rest);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

struct Export {
    api: Api,
    header: ExportHeader,
    end: ExportEnd,
    /// The page to write now; absent once the end is written.
    next: Option<JournalPage>,
}

impl Export {
    /// The header and the rewinds that happened before it.
    fn opening(&mut self, rewinds: Vec<RewindRecord>) -> Bytes {
        let before = rewinds.into_iter().filter(|rewound| rewound.number <= self.header.rewinds).map(Line::Rewind);
        ndjson([Line::Journal(self.header.clone())].into_iter().chain(before))
    }

    async fn step(&mut self) -> Option<Bytes> {
        let page = self.next.take()?;
        let mut lines = Vec::with_capacity(page.entries.len() + page.receipts.len() + 1);
        let mut receipts = page.receipts.into_iter().peekable();
        let mut last = self.header.oldest.saturating_sub(1) + self.end.entries;
        for entry in page.entries.into_iter().take_while(|entry| entry.seq <= self.header.newest) {
            last = entry.seq;
            self.end.entries += 1;
            lines.push(Line::Entry(Box::new(entry.into())));
            while let Some(receipt) = receipts.next_if(|receipt| receipt.seq <= last) {
                self.end.receipts += 1;
                lines.push(Line::Receipt(receipt));
            }
        }
        if last >= self.header.newest {
            lines.push(Line::End(self.end));
            return Some(ndjson(lines));
        }
        match page_after(&self.api, &self.header, last + 1).await {
            Ok(page) => self.next = Some(page),
            Err(reason) => lines.push(Line::Broken { reason }),
        }
        Some(ndjson(lines))
    }
}

/// The page that begins with unit `from`, if the journal is still the one that the header describes.
async fn page_after(api: &Api, header: &ExportHeader, from: u64) -> Result<JournalPage, String> {
    let page = page(api, &header.module, JournalStart::At(from), PAGE_MAX).await.map_err(|error| error.to_string())?;
    if page.rewinds != header.rewinds {
        return Err("the module was rewound meanwhile: export it again".into());
    }
    match page.entries.first() {
        Some(entry) if entry.seq == from => Ok(page),
        _ => Err(format!("unit {from} is no longer in the journal: export it again")),
    }
}

fn ndjson(lines: impl IntoIterator<Item = Line>) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        // Lines are plain data, which can always be written. A line that is cut short would be one of another journal.
        if let Err(error) = serde_json::to_writer(&mut text, &line) {
            unreachable!("a line of the journal cannot be written: {error}");
        }
        text.push(b'\n');
    }
    text.into()
}
