//! A listener for axum that can be closed before its connections are told to end.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{SetOnce, mpsc};
use tokio::time::sleep;

use crate::routes::Service;

/// What axum accepts connections from: it can be closed before they are told to end.
pub struct Door {
    pub inside: Option<(TcpListener, Open)>,
    pub close: Arc<SetOnce<()>>,
    pub closed: Arc<SetOnce<()>>,
    pub service: Arc<Service>,
}

/// Each connection has one: when none is left nobody is connected.
#[derive(Clone, Debug)]
pub struct Open(#[expect(dead_code, reason = "it is only dropped")] pub mpsc::Sender<()>);

impl Listener for Door {
    type Io = TcpStream;
    type Addr = Open;

    async fn accept(&mut self) -> (TcpStream, Open) {
        while let Some((listener, open)) = &self.inside {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.close.wait() => {
                    self.inside = None;
                    break;
                }
            };
            match accepted {
                Ok((stream, _)) => return (stream, open.clone()),
                Err(error) if is_passing(&error) => sleep(Duration::from_millis(100)).await,
                Err(error) => {
                    self.service.lifecycle.fail(&error.to_string());
                    self.inside = None; // axum would try again for ever
                }
            }
        }
        let _ = self.closed.set(());
        pending().await
    }

    fn local_addr(&self) -> io::Result<Open> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Door>> for Open {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Whether the next connection may be accepted all the same: this one has gone, or descriptors have run out.
fn is_passing(error: &io::Error) -> bool {
    const ENFILE_EMFILE: [Option<i32>; 2] = [Some(23), Some(24)];
    error.kind() == io::ErrorKind::ConnectionAborted || ENFILE_EMFILE.contains(&error.raw_os_error())
}
