//! A running node, as its process holds it.

use std::sync::{Arc, MutexGuard, PoisonError};

use chappe_proto::node::v1::node_service_server::NodeServiceServer;
use rand::{Rng, distr::Alphanumeric};

use super::{
    serve::{self, ServeError},
    service::{Gates, NodeApi},
    state::State,
    watch::Watchers,
};
use crate::{
    config::{ApiConfig, NodeConfig},
    runtime::{Output, OutputReader, Placer, Runtime, StartError},
    telemetry::{self, ByShard},
};

/// Starts nodes.
#[derive(Clone, Copy, Debug)]
pub struct Node;

/// A running node. Cheap to clone; the threads end with [`NodeHandle::stop`] or with the last handle, service
/// and stream of events.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    api: NodeApi,
}

/// What all parts of the node's face share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) boot_id: String,
    pub(super) node_id: String,
    pub(super) runtime: Runtime,
    pub(super) gates: Gates,
    state: StateLock,
}

/// Not on the packet path: shards never wait here.
#[allow(clippy::disallowed_types)]
type StateLock = std::sync::Mutex<State>;

impl Shared {
    /// The bookkeeping. Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Binds the ports and starts the media threads. Needs a tokio runtime, which then carries the control side.
    #[allow(clippy::disallowed_methods)] // names of this life are drawn here
    pub async fn start(config: NodeConfig) -> Result<NodeHandle, StartError> {
        let name = |len| {
            rand::rng().sample_iter(Alphanumeric).take(len).map(char::from).collect::<String>()
        };
        let boot_id = name(16);
        let node_id = format!("ND_{}", name(12));
        let placer = Placer::new(config.placement);
        // Binding and asking a STUN server block.
        let started = tokio::task::spawn_blocking(move || Runtime::start(&config)).await;
        let (runtime, outputs) = started
            .unwrap_or_else(|error| Err(StartError::Thread(std::io::Error::other(error))))?;
        let state = State::new(runtime.shards(), placer, Watchers::new(boot_id.clone()));
        let shared = Arc::new(Shared {
            boot_id,
            node_id,
            runtime,
            gates: Gates::new(),
            state: StateLock::new(state),
        });
        tokio::spawn(read_outputs(outputs, Arc::downgrade(&shared)));
        Ok(NodeHandle { api: NodeApi { shared } })
    }
}

/// Takes what the shards say, what each says in its order.
async fn read_outputs(mut outputs: OutputReader, shared: std::sync::Weak<Shared>) {
    while let Some(output) = outputs.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        match output {
            Output::Event(event) => shared.state().handle_event(event),
            Output::Answer { reply, then } => then(reply),
        }
    }
}

impl NodeHandle {
    /// The tonic service, to be served wherever the caller likes, or called in this process, where a client takes it in place of a channel: one
    /// code path, in one process or across machines. It checks nobody's identity.
    pub fn service(&self) -> NodeServiceServer<NodeApi> {
        NodeServiceServer::new(self.api.clone())
    }

    /// Serves the node API on TCP until `shutdown`, with the protection that `config` names; without any it refuses.
    pub async fn serve(
        &self,
        config: &ApiConfig,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        serve::serve(self.service(), config, shutdown).await
    }

    /// Random at each start.
    pub fn boot_id(&self) -> &str {
        &self.api.shared.boot_id
    }

    /// All media threads run.
    pub fn ready(&self) -> bool {
        self.api.shared.runtime.healthy()
    }

    /// Counters and gauges as OpenMetrics text.
    pub fn metrics(&self) -> String {
        let shared = &self.api.shared;
        let (rooms, peers) = shared.state().counts();
        let gauges = [
            ("rooms", "Rooms now", rooms as u64),
            ("known_peers", "Peers as the control plane sees them", peers as u64),
        ];
        let dropped = shared.runtime.kernel_drops().map(|drops| ByShard {
            name: "kernel_drops",
            help: "Datagrams that the kernel dropped before they were read, since the start",
            values: drops,
        });
        telemetry::encode(shared.runtime.blocks(), &gauges, dropped.as_slice())
    }

    /// Takes no more peers, says goodbye to those that are here, ends watches and media threads. May be called again.
    pub async fn stop(&self) {
        self.api.shared.state().drain();
        self.api.remove_all().await;
        self.api.shared.state().watchers.close();
        self.api.shared.runtime.stop();
    }
}
