//! What node and control server say to each other, and the netmap it folds into

#![forbid(unsafe_code)]
