//! A filter engine in user space that answers the symbols fwps-sys declares.
//!
//! A driver's callouts register with it, see TCP streams and outgoing packets, and edit and inject them, with the same
//! calls and the same pointers as on Windows. Three things are different, all for the sake of testing:
//!
//! - **Everything is chosen.** Memory layout, segmentation, completion order, failures and leftovers in output fields
//!   come from a [`Config`] and a seed ([`Config::random`] chooses all of them).
//! - **Every broken rule has a name.** The contract of the platform is checked call by call ([`rules`]);
//!   [`Simulator::finish`] panics with the names of the rules that were broken.
//! - **Many engines live in one process.** The instance travels in device objects, handles, pools and packets. The calls
//!   that carry none of these ask the thread: it is inside a simulator while it runs one of its callbacks or is in
//!   [`Simulator::enter`].
//!
//! ```
//! use fwps_sim::{Config, Direction, FlowSpec, Simulator};
//!
//! let sim = Simulator::new(Config::default());
//! // sim.enter(|| Driver::start(sim.device_object())); sim.add_filter(Filter::at(layer, callout_key));
//! let (here, there) = ("10.0.0.2:40000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
//! let flow = sim.open_flow(&FlowSpec::outbound(here, there));
//! sim.indicate(flow, Direction::Send, b"GET / ");
//! sim.indicate(flow, Direction::Send, b"HTTP/1.1\r\n\r\n");
//! sim.fin(flow, Direction::Send);
//! let out = sim.delivered(flow, Direction::Send);
//! assert_eq!((&*out.bytes, out.fin), (&b"GET / HTTP/1.1\r\n\r\n"[..], true));
//! sim.finish();
//! ```
//!
//! A binary that links a callout must use a [`Simulator`]: [`Simulator::new`] keeps the symbols in the link.
//! Layers are those that tell of new connections and closing endpoints, the stream layers, and outbound those of datagram
//! data, ICMP errors and transport. Filters come with [`Simulator::add_filter`], or from the driver by the management functions
//! (`Fwpm*`). Not answered are inbound injection, IP header construction and IPsec information.

mod buffers;
mod checksum;
mod config;
mod current;
mod engine;
mod ffi;
mod flow;
pub mod heap;
pub mod irql;
pub mod locks;
mod management;
mod memory;
mod other;
mod packet;
mod rng;
pub mod rules;
mod simulator;
mod state;
mod trace;

pub use config::{Call, Completion, Config, DropConnection, NeedMore, Split, When};
pub use engine::filters::Filter;
pub use flow::{Delivered, Direction, FlowId, FlowSpec, FlowState};
pub use other::{Again, OtherProduct};
pub use packet::{Checksum, Packet, SendId, SendOutcome, Sent};
pub use rules::{Rule, Violation};
pub use simulator::Simulator;
