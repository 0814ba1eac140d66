"""The clouds, each behind the same contract (`base.Provider`). Vendor error codes and client libraries stay in here."""
