//! Managers: objects of one process that others call.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | the loop: threads that wait for all clients at once |
//! | [`client`] | one connection, from the server's side; the session of a process |
//! | [`exchange`] | one message of it, and the answer |
//! | [`admission`], [`handshake`] | who may be a client |
//! | [`objects`] | the objects, and who refers to them |
//! | [`request`] | from a message to its answer |
//! | [`caller`] | the calling side |
//! | [`stream`], [`packed`] | what goes over the wire |
//!
//! What Python's users know of managers, types, proxies and tokens, is in `python/broody/managers.py`; requests to the server itself and the locks that
//! it lends in `_server.py`; a process's side of its sessions in `_references.py`.

mod admission;
mod caller;
mod client;
mod exchange;
mod handshake;
mod objects;
mod packed;
mod request;
mod server;
mod stream;

pub(crate) use self::caller::{Caller, call, callers};
pub(crate) use self::client::{Client, Session, serve, served};
pub(crate) use self::objects::Entry;
pub(crate) use self::server::Server;
