//! Fuzz targets and their corpora, replayed in ordinary tests
