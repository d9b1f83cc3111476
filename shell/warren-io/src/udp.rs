//! UDP in batches, with GSO on sending and GRO on receiving.
