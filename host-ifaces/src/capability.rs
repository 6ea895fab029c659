pub use nexum_records::capability::Capability;
