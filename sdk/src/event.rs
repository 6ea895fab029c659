//! Conveniences on the event types, and their alloy counterparts.

use std::fmt;

use crate::{Block, BlockRef, Log};

impl Block {
    /// `chain:number` and the short hash, for log lines.
    pub fn label(&self) -> String {
        format!("{}:{} {}", self.chain_id, self.number, Short(&self.hash))
    }
}

impl BlockRef {
    /// The number and the short hash, for log lines.
    pub fn label(&self) -> String {
        format!("{} {}", self.number, Short(&self.hash))
    }
}

impl Log {
    /// Whether topic 0 is this event signature's hash.
    pub fn is(&self, event_signature: impl AsRef<[u8]>) -> bool {
        self.topics.first().is_some_and(|topic| topic == event_signature.as_ref())
    }
}

struct Short<'a>(&'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(if self.0.len() > 4 { "…" } else { "" })
    }
}

#[cfg(feature = "alloy")]
mod as_alloy {
    use alloy_primitives::{Address, B256, Bytes, Log as PrimitiveLog, LogData};
    use alloy_sol_types::SolEvent;

    use crate::{Block, Error, Log, Result};

    impl Block {
        /// The block's hash.
        ///
        /// # Errors
        /// It does not have 32 bytes; the host never sends such a block.
        pub fn block_hash(&self) -> Result<B256> {
            word(&self.hash)
        }

        /// The parent's hash.
        ///
        /// # Errors
        /// It does not have 32 bytes; the host never sends such a block.
        pub fn block_parent_hash(&self) -> Result<B256> {
            word(&self.parent_hash)
        }
    }

    impl Log {
        /// The emitting contract.
        ///
        /// # Errors
        /// It does not have 20 bytes; the host never sends such a log.
        pub fn emitter(&self) -> Result<Address> {
            Address::try_from(self.address.as_slice())
                .map_err(|_| Error::invalid_input("the log's address does not have 20 bytes"))
        }

        /// The log as alloy's RPC type, with nothing lost; alloy's timestamp is in seconds.
        ///
        /// # Errors
        /// A field has a wrong length; the host never sends such a log.
        pub fn to_alloy(&self) -> Result<alloy_rpc_types_eth::Log> {
            Ok(alloy_rpc_types_eth::Log {
                inner: self.primitive()?,
                block_hash: Some(word(&self.block_hash)?),
                block_number: Some(self.block_number),
                block_timestamp: Some(self.block_timestamp / 1_000),
                transaction_hash: Some(word(&self.transaction_hash)?),
                transaction_index: Some(self.transaction_index.into()),
                log_index: Some(self.log_index.into()),
                removed: false,
            })
        }

        /// Decodes the log as an event declared with `sol!`.
        ///
        /// # Errors
        /// The topics or data are not those of this event; kind `InvalidInput`.
        pub fn decode<E: SolEvent>(&self) -> Result<E> {
            E::decode_log(&self.primitive()?)
                .map(|log| log.data)
                .map_err(|error| Error::invalid_input(format!("not an event {}: {error}", E::SIGNATURE)))
        }

        fn primitive(&self) -> Result<PrimitiveLog> {
            let topics = self.topics.iter().map(|topic| word(topic)).collect::<Result<_>>()?;
            let data = LogData::new(topics, Bytes::copy_from_slice(&self.data))
                .ok_or_else(|| Error::invalid_input("a log has at most four topics"))?;
            Ok(PrimitiveLog { address: self.emitter()?, data })
        }
    }

    fn word(bytes: &[u8]) -> Result<B256> {
        B256::try_from(bytes).map_err(|_| Error::invalid_input(format!("{} bytes are not a 32-byte word", bytes.len())))
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use alloy_primitives::{U256, address, b256};
        use alloy_sol_types::sol;

        sol! {
            event Transfer(address indexed from, address indexed to, uint256 value);
        }

        fn transfer() -> Log {
            Log {
                chain_id: 1,
                address: vec![0x11; 20],
                topics: vec![
                    Transfer::SIGNATURE_HASH.to_vec(),
                    address!("2222222222222222222222222222222222222222").into_word().to_vec(),
                    address!("3333333333333333333333333333333333333333").into_word().to_vec(),
                ],
                data: U256::from(7).to_be_bytes_vec(),
                block_number: 21_000_000,
                block_hash: vec![0x44; 32],
                block_timestamp: 1_700_000_000_000,
                transaction_hash: vec![0x55; 32],
                transaction_index: 3,
                log_index: 9,
            }
        }

        #[test]
        fn a_log_decodes_as_its_event_only() {
            let event: Transfer = transfer().decode().unwrap();
            assert_eq!((event.to, event.value), (Address::repeat_byte(0x33), U256::from(7)));
            assert!(transfer().is(Transfer::SIGNATURE_HASH));
            let other = Log { topics: vec![vec![0; 32]], ..transfer() };
            assert!(other.decode::<Transfer>().is_err());
        }

        #[test]
        fn a_log_becomes_alloys_without_loss() {
            let log = transfer().to_alloy().unwrap();
            assert_eq!(log.block_hash, Some(b256!("4444444444444444444444444444444444444444444444444444444444444444")));
            assert_eq!(log.block_number, Some(21_000_000));
            assert_eq!(log.block_timestamp, Some(1_700_000_000));
            assert_eq!(log.transaction_hash, Some(B256::repeat_byte(0x55)));
            assert_eq!((log.transaction_index, log.log_index), (Some(3), Some(9)));
            assert_eq!(log.inner.data.topics().len(), 3);
            assert!(Log { address: vec![1], ..transfer() }.to_alloy().is_err());
        }
    }
}
