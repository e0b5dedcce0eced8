//! Answers to a CA's handshakes (tls-alpn-01, RFC 8737): a certificate that proves that a host is served here, shown to
//! whoever asks for the protocol `acme-tls/1` and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::config::tls::provider;

/// The protocol, as it is called in handshakes.
const PROTOCOL: &[u8] = b"acme-tls/1";

/// The answers that are outstanding, by their hosts.
#[derive(Default)]
pub(super) struct Challenges(ArcSwap<HashMap<String, Arc<ServerConfig>>>);

impl Challenges {
    /// The answer for a host from now on; `None`: there is none any more.
    pub(super) fn set(&self, host: &str, answer: Option<Arc<ServerConfig>>) {
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            match &answer {
                Some(answer) => all.insert(host.to_owned(), Arc::clone(answer)),
                None => all.remove(host),
            };
            all
        });
    }

    /// What a handshake is answered with that looks for an answer.
    pub(super) fn find(&self, hello: &ClientHello<'_>, name: Option<&str>) -> Option<Arc<ServerConfig>> {
        let all = self.0.load();
        if all.is_empty() || !hello.alpn()?.eq([PROTOCOL]) {
            return None;
        }
        all.get(name?).cloned()
    }
}

/// The answer with that proof, the SHA-256 of the key authorization.
pub(super) fn answer(host: &str, proof: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof)];
    let key = KeyPair::generate().map_err(text)?;
    let chain = vec![params.self_signed(&key).map_err(text)?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    // Not checked by the library, which does not know the extension and would refuse it.
    let signed = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut server = builder.with_cert_resolver(Arc::new(signed));
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}
