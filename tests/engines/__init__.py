import os

# Jobs of seconds: Java compiles quickly instead of well, and needs half of the processor time.
os.environ.setdefault("JVM_ARGS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
