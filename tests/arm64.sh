#!/usr/bin/env bash
# Bring what the tests of 64-bit Arm need into .arm64: Debian's Python and libraries, and the engines' wheels.
# Needs Debian, root (for another architecture's package lists) and qemu-user; changes nothing that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
made=$(mktemp -d .arm64-XXXXXX)
trap 'rm -rf "$made"' EXIT
dpkg --add-architecture arm64
apt-get update -qq
mkdir "$made/debs" "$made/root" "$made/site"
(cd "$made/debs" && apt-get download -q -o APT::Sandbox::User=root \
  {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib,libc6,libgcc-s1,libstdc++6,zlib1g,libexpat1}:arm64 \
  {libssl3,libffi8,libbz2-1.0,liblzma5,libuuid1}:arm64)
for package in "$made"/debs/*.deb; do dpkg -x "$package" "$made/root"; done
platforms=(--platform manylinux2014_aarch64)
for glibc in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
PIP_CONSTRAINT=constraints.txt "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
  --only-binary=:all: --python-version 3.11 "${platforms[@]}" --target "$made/site" \
  numpy onnxruntime openvino openvino-telemetry flatbuffers protobuf packaging pillow
# The engines ask these files what the processor is; the emulator would show them the host's.
mkdir -p "$made/root/proc" "$made/root/sys/devices/system/cpu/cpu0/regs/identification"
cat >"$made/root/proc/cpuinfo" <<'CPU'
processor	: 0
BogoMIPS	: 100.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

CPU
echo 0x00000000414fd0b1 >"$made/root/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
for file in possible present online; do echo 0 >"$made/root/sys/devices/system/cpu/$file"; done
rm -rf "$made/debs" .arm64
mv "$made" .arm64
trap - EXIT
echo "made .arm64: make test-slow runs the tests on Arm"
