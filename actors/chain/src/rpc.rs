//! stub
use crate::{backend::*, config::ChainConfig, filter::Union, header::Header, metrics::ChainMetrics, tracker::*};
use async_trait::async_trait;
use nexum_host_ifaces::{Hash, HostError, chain::EndpointStatus, clock::Clock, types::Log};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
pub struct RpcBackend;
impl RpcBackend {
    pub fn new(_: ChainConfig, _: Arc<dyn Clock>, _: ChainMetrics) -> Result<Self, String> {
        Ok(Self)
    }
}
#[async_trait]
impl Backend for RpcBackend {
    async fn follow(&self, _: mpsc::Sender<Seen>) {
        todo!()
    }
    async fn headers(&self, _: &[u64]) -> Result<Vec<Header>, Failure> {
        todo!()
    }
    async fn header(&self, _: Hash) -> Result<Option<Header>, Failure> {
        todo!()
    }
    async fn tagged(&self, _: Tag) -> Result<Option<Header>, Failure> {
        todo!()
    }
    async fn block_logs(&self, _: &Header, _: &Union) -> Result<Vec<Log>, Failure> {
        todo!()
    }
    async fn range_logs(&self, _: u64, _: u64, _: &Union) -> Result<Vec<Log>, Failure> {
        todo!()
    }
    async fn request(&self, _: &str, _: &str, _: Duration) -> Result<String, HostError> {
        todo!()
    }
    async fn request_batch(
        &self,
        _: Vec<(String, String)>,
        _: Duration,
    ) -> Result<Vec<Result<String, HostError>>, HostError> {
        todo!()
    }
    fn endpoints(&self) -> Vec<EndpointStatus> {
        todo!()
    }
    fn best_head(&self) -> Option<u64> {
        todo!()
    }
}
