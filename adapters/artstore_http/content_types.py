"""The content type of an upload: what the client declared, or what the name tells.

The table is ours, not that of the machine or of Python: two elements of one version guess alike, wherever they run.
"""

from __future__ import annotations

from posixpath import splitext

TABLE_VERSION = 1
"""Grows by one with every change of the table, which the changelog then names."""

UNKNOWN = "application/octet-stream"

_SAYS_NOTHING = frozenset(
    {"", UNKNOWN, "binary/octet-stream", "application/unknown", "unknown/unknown", "*/*"}
)
"""What clients declare when they know no type: curl -F, S3 clients, and what browsers count as unknown."""

# A type, and the suffixes that have it. A compressed file has the type of its own bytes, never that of what is in it.
_TABLE = """
application/atom+xml atom
application/dicom dcm
application/epub+zip epub
application/geo+json geojson
application/gpx+xml gpx
application/gzip gz tgz taz svgz emz wmz
application/java-archive jar
application/json json
application/ld+json jsonld
application/manifest+json webmanifest
application/mbox mbox
application/msword doc dot
application/mxf mxf
application/n-quads nq
application/n-triples nt
application/ogg ogx
application/pdf pdf
application/pgp-encrypted pgp gpg
application/pgp-signature sig
application/pkcs10 p10
application/pkcs7-mime p7m p7c
application/pkcs7-signature p7s
application/pkcs8 p8
application/pkix-cert cer
application/pkix-crl crl
application/postscript ps eps ai
application/rdf+xml rdf owl
application/rss+xml rss
application/rtf rtf
application/sql sql
application/toml toml
application/trig trig
application/vnd.android.package-archive apk
application/vnd.apache.arrow.file arrow feather
application/vnd.apache.parquet parquet
application/vnd.apple.mpegurl m3u8
application/vnd.debian.binary-package deb
application/vnd.google-earth.kml+xml kml
application/vnd.google-earth.kmz kmz
application/vnd.ms-cab-compressed cab
application/vnd.ms-excel xls xlt
application/vnd.ms-excel.addin.macroenabled.12 xlam
application/vnd.ms-excel.sheet.binary.macroenabled.12 xlsb
application/vnd.ms-excel.sheet.macroenabled.12 xlsm
application/vnd.ms-excel.template.macroenabled.12 xltm
application/vnd.ms-fontobject eot
application/vnd.ms-outlook msg
application/vnd.ms-powerpoint ppt pps pot
application/vnd.ms-powerpoint.presentation.macroenabled.12 pptm
application/vnd.ms-project mpp
application/vnd.ms-visio.drawing.main+xml vsdx
application/vnd.ms-word.document.macroenabled.12 docm
application/vnd.ms-word.template.macroenabled.12 dotm
application/vnd.ms-xpsdocument xps
application/vnd.oasis.opendocument.chart odc
application/vnd.oasis.opendocument.formula odf
application/vnd.oasis.opendocument.graphics odg
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.presentation-template otp
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.spreadsheet-template ots
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.text-template ott
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow ppsx
application/vnd.openxmlformats-officedocument.presentationml.template potx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template xltx
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template dotx
application/vnd.rar rar
application/vnd.sqlite3 sqlite sqlite3
application/vnd.tcpdump.pcap pcap cap
application/vnd.visio vsd vst vss
application/wasm wasm
application/x-7z-compressed 7z
application/x-bibtex bib
application/x-bzip2 bz2 bz tbz tbz2 tb2
application/x-compress z
application/x-cpio cpio
application/x-hdf hdf
application/x-hdf5 h5 hdf5
application/x-iso9660-image iso
application/x-java-keystore jks
application/x-lz4 lz4
application/x-lzip lz tlz
application/x-lzma lzma
application/x-ndjson ndjson jsonl
application/x-netcdf nc
application/x-pem-file pem
application/x-pkcs12 p12 pfx
application/x-rpm rpm
application/x-sh sh
application/x-shockwave-flash swf
application/x-snappy-framed sz
application/x-subrip srt
application/x-tar tar
application/x-tex tex latex
application/x-virtualbox-vdi vdi
application/x-xz xz txz
application/xhtml+xml xhtml xht
application/xml xml xsl xsd wsdl
application/xml-dtd dtd
application/xslt+xml xslt
application/yaml yaml yml
application/zip zip
application/zstd zst tzst
audio/aac aac
audio/ac3 ac3
audio/aiff aif aiff aifc
audio/amr amr
audio/basic au snd
audio/flac flac
audio/matroska mka
audio/midi mid midi
audio/mp4 m4a m4b
audio/mpeg mp3 mp2 mpga
audio/ogg ogg oga opus spx
audio/wav wav
audio/x-ms-wma wma
font/collection ttc
font/otf otf
font/ttf ttf
font/woff woff
font/woff2 woff2
image/avif avif
image/bmp bmp dib
image/emf emf
image/gif gif
image/heic heic
image/heif heif
image/jp2 jp2
image/jpeg jpg jpeg jpe jfif
image/jxl jxl
image/png png
image/svg+xml svg
image/tiff tif tiff
image/vnd.adobe.photoshop psd
image/vnd.djvu djvu djv
image/vnd.dwg dwg
image/vnd.dxf dxf
image/vnd.microsoft.icon ico cur
image/webp webp
image/wmf wmf
image/x-adobe-dng dng
image/x-canon-cr2 cr2
image/x-nikon-nef nef
image/x-portable-bitmap pbm
image/x-portable-graymap pgm
image/x-portable-pixmap ppm
image/x-sony-arw arw
message/rfc822 eml mht mhtml
model/gltf+json gltf
model/gltf-binary glb
model/obj obj
model/step stp step
model/stl stl
text/calendar ics ifb
text/css css
text/csv csv
text/html html htm
text/javascript js mjs cjs
text/markdown md markdown
text/n3 n3
text/plain txt text log c h pl pm bat ksh conf cfg ini properties asc diff patch
text/tab-separated-values tsv
text/troff roff
text/turtle ttl
text/vcard vcf vcard
text/vtt vtt
text/x-c++ cc cpp cxx hpp hh
text/x-csharp cs
text/x-go go
text/x-java-source java
text/x-php php
text/x-python py pyi
text/x-rst rst
text/x-ruby rb
text/x-rust rs
video/3gpp 3gp 3gpp
video/3gpp2 3g2 3gpp2
video/h264 h264
video/matroska mkv
video/mp2t ts m2ts mts
video/mp4 mp4 m4v mp4v
video/mpeg mpeg mpg mpe m1v m2v
video/ogg ogv
video/quicktime mov qt
video/webm webm
video/x-flv flv
video/x-ms-asf asf
video/x-ms-wmv wmv
video/x-msvideo avi
"""


def _read_table() -> dict[str, str]:
    rows = (row.split() for row in _TABLE.strip().splitlines())
    return {suffix: content_type for content_type, *suffixes in rows for suffix in suffixes}


_BY_SUFFIX = _read_table()


def content_type_of(declared: str | None, filename: str) -> str:
    """Return the declared content type, or the guess from the name when the declared one says nothing."""
    declared = (declared or "").strip(" \t")
    if declared.partition(";")[0].rstrip(" \t").lower() in _SAYS_NOTHING:
        return guess_content_type(filename)
    return declared


def guess_content_type(filename: str) -> str:
    """Return the content type that the last suffix of a name tells, `application/octet-stream` if it tells none."""
    return _BY_SUFFIX.get(splitext(filename)[1][1:].lower(), UNKNOWN)
