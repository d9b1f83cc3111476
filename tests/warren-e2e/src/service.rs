//! Our services on the machines of the laboratory.
