//! TLS to the dynos of an app: who is trusted, and under which name.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use router_core::encryption::Secured;
use router_core::ids::Address;
use router_core::proxy::{Carrier, Connecting, Connector, secured};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls::{certificates, mark, provider};

/// How dynos are spoken to. Without a name, a dyno's certificate is for its address; without a file, whom the system
/// trusts is trusted.
///
/// # Errors
/// What is wrong with the file, or that the system trusts nobody.
pub(super) fn secure(name: Option<&ServerName<'static>>, ca: Option<&Path>) -> Result<Secured, String> {
    let (roots, from) = match ca {
        Some(path) => {
            let read = certificates(path)?;
            let from = format!("{} (certificates {})", path.display(), mark(&read));
            let mut roots = RootCertStore::empty();
            for certificate in read {
                roots.add(certificate).map_err(|error| format!("no valid certificate: {error}"))?;
            }
            (Arc::new(roots), from)
        }
        None if SYSTEM.is_empty() => return Err("this system trusts no certificates: name a file".to_owned()),
        None => (Arc::clone(&SYSTEM), "the system".to_owned()),
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let shown = name.map_or_else(|| "its address".into(), ServerName::to_str);
    let connector = Upstream { connector: TlsConnector::from(Arc::new(config)), name: name.cloned() };
    Ok(secured(&format!("{shown}\n{from}"), connector))
}

/// The name and the file as people read them.
pub(super) fn shown(secured: &Secured) -> (&str, &str) {
    secured.mark().split_once('\n').unwrap_or_default()
}

/// Whom the system trusts, as it was when somebody wanted to know first.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    // What of the system's store cannot be read is no reason not to use the rest.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

struct Upstream {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl Connector for Upstream {
    fn connect(&self, address: Address, stream: TcpStream) -> Connecting {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        let connecting = self.connector.connect(name, stream);
        Box::pin(async move {
            let stream = connecting.await;
            let stream =
                stream.inspect_err(|error| tracing::warn!("TLS with the dyno {address}: {error}"))?;
            Ok(Box::new(Secure(stream)) as Box<dyn Carrier>)
        })
    }
}

/// The client side of TLS.
struct Secure(TlsStream<TcpStream>);

impl Carrier for Secure {
    fn tcp(&self) -> &TcpStream {
        self.0.get_ref().0
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
