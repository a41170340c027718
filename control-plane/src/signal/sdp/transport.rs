//! The client's side of the transport, as far as it was negotiated.

use chappe_proto::node::v1 as node;
use serde::{Deserialize, Serialize};

use super::{
    SdpError,
    parse::{RemoteTransport, Setup},
};

/// The node's DTLS role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum DtlsRole {
    Active,
    Passive,
}

/// Credentials are stored with the peer and must not reach a log: Debug shows none.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct TransportState {
    ice: Option<(String, String)>,
    generation: u32,
    role: Option<DtlsRole>,
    fingerprints: Vec<(String, Vec<u8>)>,
    /// Remote port and largest message.
    pub(super) sctp: Option<(u16, u32)>,
}

impl TransportState {
    pub(super) fn role(&self) -> Option<DtlsRole> {
        self.role
    }

    /// We restart ICE: the next offer carries new credentials of the node.
    pub(super) fn restart(&mut self) {
        self.generation = self.generation.saturating_add(1);
    }

    /// Takes the client's side from its offer. Returns whether it restarts ICE (RFC 8839 section 4.4.3.1.1).
    pub(super) fn offered(&mut self, remote: &RemoteTransport) -> Result<bool, SdpError> {
        let wanted = match remote.setup {
            Some(Setup::Passive) => DtlsRole::Active,
            // RFC 4145 section 4: an offer without a=setup is active.
            Some(Setup::Active) | None => DtlsRole::Passive,
            // The role stays for the life of the association (RFC 8842 section 5.5).
            Some(Setup::ActPass) => self.role.unwrap_or(DtlsRole::Passive),
        };
        self.set_role(wanted)?;
        let ice = (remote.ufrag.clone(), remote.pwd.clone());
        let restart = self.ice.as_ref().is_some_and(|known| *known != ice);
        if restart {
            self.restart();
        }
        self.ice = Some(ice);
        self.set_fingerprints(remote)?;
        Ok(restart)
    }

    /// Takes the client's side from its answer.
    pub(super) fn answered(&mut self, remote: &RemoteTransport) -> Result<(), SdpError> {
        let role = match remote.setup {
            Some(Setup::Active) => DtlsRole::Passive,
            Some(Setup::Passive) => DtlsRole::Active,
            None => self.role.unwrap_or(DtlsRole::Passive),
            Some(Setup::ActPass) => {
                return Err(SdpError::Contradiction(
                    "an answer has to choose its DTLS role".to_owned(),
                ));
            }
        };
        self.set_role(role)?;
        self.ice = Some((remote.ufrag.clone(), remote.pwd.clone()));
        self.set_fingerprints(remote)
    }

    pub(super) fn to_node(&self) -> node::Transport {
        node::Transport {
            remote_ice: self.ice.clone().map(|(ufrag, pwd)| node::IceCredentials { ufrag, pwd }),
            ice_generation: self.generation,
            dtls_role: match self.role {
                None => node::DtlsRole::Unspecified,
                Some(DtlsRole::Active) => node::DtlsRole::Active,
                Some(DtlsRole::Passive) => node::DtlsRole::Passive,
            } as i32,
            remote_fingerprints: self
                .fingerprints
                .iter()
                .cloned()
                .map(|(algorithm, digest)| node::Fingerprint { algorithm, digest })
                .collect(),
            remote_candidates: Vec::new(),
            sctp: self.sctp.map(|(port, size)| node::Sctp {
                remote_port: u32::from(port),
                remote_max_message_size: size,
            }),
            force_tcp: false,
        }
    }

    fn set_role(&mut self, role: DtlsRole) -> Result<(), SdpError> {
        if self.role.is_some_and(|known| known != role) {
            return Err(SdpError::Contradiction(
                "the DTLS role of a running association changes".to_owned(),
            ));
        }
        self.role = Some(role);
        Ok(())
    }

    fn set_fingerprints(&mut self, remote: &RemoteTransport) -> Result<(), SdpError> {
        if !self.fingerprints.is_empty() && self.fingerprints != remote.fingerprints {
            return Err(SdpError::Contradiction(
                "the certificate of a running association changes".to_owned(),
            ));
        }
        self.fingerprints.clone_from(&remote.fingerprints);
        Ok(())
    }
}

impl std::fmt::Debug for TransportState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransportState")
            .field("generation", &self.generation)
            .field("role", &self.role)
            .field("sctp", &self.sctp)
            .finish_non_exhaustive()
    }
}
