#!/bin/sh
# Build dist/kvmharness_VERSION_amd64.deb for the Debian that this is, by its own Python.
# Three libraries that Debian 12 has no package of lie in the package's own folder beside ours;
# all others are Debian's.
set -eu
cd "$(dirname "$0")/.."

for tool in dpkg-buildpackage dh; do
	command -v $tool >/dev/null || {
		echo "deb: no $tool; apt-get install debhelper dpkg-dev" >&2
		exit 2
	}
done
work=$PWD/build/deb
rm -rf "$work"
mkdir -p "$work/source/stage" "$work/wheels" dist

/usr/bin/python3 -m venv "$work/venv"
pip="$work/venv/bin/pip --disable-pip-version-check --quiet"
$pip wheel --no-deps --wheel-dir "$work/wheels" .
awk '/^[a-z]/ { keep = /^(ioctl-opt|msgspec|plotext)==/ } keep' requirements.lock >"$work/bundled.txt"
stage=$work/source/stage
library=$stage/usr/lib/kvmharness
$pip install --no-deps --no-compile --require-hashes --target "$library" -r "$work/bundled.txt"
$pip install --no-deps --no-compile --target "$library" "$work"/wheels/*.whl

# What pip puts beside the modules belongs to the system's own places.
mkdir -p "$stage/usr/bin"
cp packaging/deb/kvmharness "$stage/usr/bin/"
cp -r "$library/share" "$stage/usr/share"
rm -rf "$library/share" "$library/bin" "$library"/plotext/_doc* "$library"/kvmharness/blobs/*.elf
mkdir -p "$stage/usr/share/zsh/vendor-completions"
mv "$stage"/usr/share/zsh/site-functions/* "$stage/usr/share/zsh/vendor-completions/"
rmdir "$stage/usr/share/zsh/site-functions"

version=$(basename "$work"/wheels/kvmharness-*.whl | cut -d- -f2 | sed 's/\.dev/~dev/')
cp -r packaging/deb "$work/source/debian"
rm "$work/source/debian/kvmharness"
{
	echo "kvmharness ($version) unstable; urgency=medium"
	echo
	echo "  * Built from the project's own tree."
	echo
	echo " -- $(sed -n 's/^Maintainer: //p' packaging/deb/control)  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")"
} >"$work/source/debian/changelog"

# license NAME FILE: a licence's whole text, as that file's format wants it.
license() {
	echo
	echo "License: $1"
	sed 's/^[[:space:]]*$/./; s/^/ /' "$2"
}
{
	license MIT LICENSE
	license BSD-3-Clause "$library"/msgspec-*/licenses/LICENSE
	echo
	echo "License: LGPL-2+"
	echo " Its text is in /usr/share/common-licenses/LGPL-2."
} >>"$work/source/debian/copyright"
# direct_url.json names the folder that it was built in.
rm -rf "$library"/*.dist-info/licenses "$library"/*.dist-info/LICENSE \
	"$library"/*.dist-info/direct_url.json "$library/plotext/plotext_cli.py"
mv "$stage/usr/share/doc/kvmharness/CHANGELOG.md" "$work/source/"

cd "$work/source"
dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >../build.log 2>&1 || {
	tail -20 ../build.log >&2
	exit 1
}
cd - >/dev/null
mv "$work"/kvmharness_*.deb dist/
ls dist/kvmharness_"$version"_*.deb
