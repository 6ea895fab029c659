//! The store actor over a real RocksDB.

mod admin;
mod commit;
mod crash;
mod damage;
mod harness;
mod rewind;
