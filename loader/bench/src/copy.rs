//! The plain copy loop: accepts, connects, and lets the runtime copy in both directions.

use std::net::SocketAddr;
use std::pin::pin;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};

/// Relays connections until the process is interrupted. Prints where it listens, as the proxy does with `-j`.
pub(crate) async fn run(upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::json!({ "listen": listener.local_addr()? }));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut client, _) = accepted?;
                tokio::spawn(async move {
                    let mut upstream = TcpStream::connect(upstream).await?;
                    client.set_nodelay(true)?;
                    upstream.set_nodelay(true)?;
                    tokio::io::copy_bidirectional(&mut client, &mut upstream).await
                });
            }
            _ = &mut interrupted => {
                println!("{{}}");
                return Ok(());
            }
        }
    }
}
