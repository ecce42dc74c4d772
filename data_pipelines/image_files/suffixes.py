"""File suffixes: of images, of files beside them, and of other common kinds."""

from data_pipelines.image_files.dicom import DICOM_SUFFIXES

# Taken without a look at their contents, which a large set has no time for.
SURE_SUFFIXES = {".jpg", ".jpeg", ".png"} | DICOM_SUFFIXES
# Taken also if they do not begin as any picture does: they are damaged then, and whoever decodes them says so.
IMAGE_SUFFIXES = SURE_SUFFIXES | {
    ".jpe", ".jif", ".jfif", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm",
    ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif",
}  # fmt: skip
# Of these a set can have one for each picture; and some texts begin as pictures do.
TEXTS = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".py", ".ipynb",
    ".log", ".cls",
}  # fmt: skip
COPIES = {".bak", ".old", ".orig", ".tmp", ".swp", ".part", ".partial", ".crdownload", ".download", ".filepart"}
# Many call themselves TIFF, and their first picture is a thumbnail.
RAW_FILES = {
    ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".eip", ".erf", ".fff", ".gpr", ".iiq",
    ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2",
    ".srf", ".srw", ".x3f",
}  # fmt: skip
# No picture that is read, but a suffix that says a kind of file and nothing of its owner.
OTHER_SUFFIXES = {
    # pictures, drawings and scans of other kinds
    ".ai", ".bpg", ".cdr", ".cin", ".cur", ".dds", ".djvu", ".dpx", ".emf", ".eps", ".exr", ".flif", ".hdr", ".icns",
    ".ico", ".indd", ".jxl", ".jxr", ".mpo", ".pcx", ".pfm", ".pict", ".ps", ".psb", ".psd", ".qoi", ".ras", ".sgi",
    ".sketch", ".svg", ".svgz", ".tga", ".wdp", ".wmf", ".xbm", ".xcf", ".xpm",
    # medical and microscopic
    ".acr", ".analyze", ".bif", ".czi", ".dicomdir", ".dic", ".gipl", ".ima", ".img", ".lif", ".lsm", ".mha", ".mhd",
    ".mrxs", ".nd2", ".ndpi", ".nhdr", ".nii", ".nrrd", ".oib", ".oif", ".par", ".rec", ".scn", ".svs", ".vms", ".vsi",
    # videos and sounds
    ".3g2", ".3gp", ".aac", ".aif", ".aiff", ".amr", ".asf", ".avi", ".flac", ".flv", ".m2ts", ".m4a", ".m4v", ".mid",
    ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".oga", ".ogg", ".ogv", ".opus", ".ts", ".vob",
    ".wav", ".webm", ".wma", ".wmv",
    # what editors and cameras put beside pictures
    ".aae", ".cube", ".dop", ".icc", ".icm", ".lrcat", ".lut", ".on1", ".photoslibrary", ".pp3", ".srt", ".thm", ".vtt",
    ".xmp",
    # archives and disks
    ".7z", ".bz2", ".cab", ".dmg", ".gz", ".iso", ".jar", ".lz4", ".lzma", ".rar", ".tar", ".tbz", ".tbz2", ".tgz",
    ".txz", ".xz", ".z", ".zip", ".zst",
    # texts, office, mail
    ".bib", ".css", ".doc", ".docm", ".docx", ".dot", ".dotx", ".eml", ".epub", ".key", ".mbox", ".mobi", ".msg",
    ".numbers", ".odg", ".odp", ".ods", ".odt", ".pages", ".pdf", ".pps", ".ppsx", ".ppt", ".pptx", ".pub", ".rst",
    ".rtf", ".tex", ".vcf", ".vsd", ".vsdx", ".wpd", ".xls", ".xlsb", ".xlsm", ".xlsx", ".xps",
    # data and models
    ".arrow", ".bin", ".ckpt", ".dat", ".data", ".db", ".dta", ".feather", ".geojson", ".gpx", ".h5", ".hdf", ".hdf5",
    ".idx", ".kml", ".lmdb", ".mat", ".mdb", ".names", ".nc", ".npy", ".npz", ".onnx", ".parquet", ".pb", ".pickle",
    ".pkl", ".pt", ".pth", ".rds", ".rdata", ".rda", ".safetensors", ".sas7bdat", ".sav", ".sqlite", ".sqlite3",
    ".tfrecord", ".tfrecords", ".weights", ".zarr",
    # programs and their settings
    ".accdb", ".app", ".apk", ".bat", ".c", ".cc", ".cfg", ".class", ".cmd", ".com", ".conf", ".cpp", ".cs", ".dll",
    ".env", ".exe", ".go", ".h", ".hpp", ".ini", ".java", ".js", ".jsx", ".lnk", ".lock", ".lua", ".m", ".msi", ".o",
    ".php", ".pl", ".properties", ".ps1", ".pyc", ".pyd", ".r", ".rb", ".reg", ".rs", ".sh", ".so", ".sql", ".swift",
    ".sys", ".toml", ".tsx", ".url", ".vbs", ".webloc", ".whl",
    # sums, signatures, keys, states
    ".asc", ".cer", ".crc", ".crt", ".err", ".gpg", ".lst", ".md5", ".out", ".pem", ".pid", ".sfv", ".sha1", ".sha256",
    ".sig", ".sum", ".torrent",
}  # fmt: skip
