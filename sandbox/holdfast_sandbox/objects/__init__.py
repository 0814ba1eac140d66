"""A simulated object store on loopback: the wire protocol of Amazon S3, and the XML one of Google Cloud Storage, in a process of its own.

By hand:

    python -m holdfast_sandbox.objects --dir /dev/shm/objects --bucket runs     # or: holdfast sandbox s3
    export AWS_ENDPOINT_URL=http://127.0.0.1:9100 AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox AWS_REGION=us-east-1

It listens until Ctrl-C, and keeps nothing afterwards. Addresses are path-style; signatures and credentials are not looked at. What goes
wrong is switched while it runs, through `holdfast_sandbox.objects.control.ObjectStoreControl`. Unlike Amazon's it has no versions, tags,
access lists or encryption, gives an ETag that is no MD5 to bodies above 1 MiB (as Amazon's does for encrypted ones), and answers a second
CompleteMultipartUpload with NoSuchUpload (Amazon's sometimes remembers it). Unknown sub-resources are refused, not ignored.
"""
