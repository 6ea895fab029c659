//! Transactions: the actor that sends them and follows what becomes of them.
