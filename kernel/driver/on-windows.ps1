<#
.SYNOPSIS
Signs, installs, exercises and removes tidegate.sys on a Windows machine for tests. Run it elevated; docs/driver.md says when.

.EXAMPLE
.\on-windows.ps1 -Folder C:\tidegate -Sign -Install
.EXAMPLE
.\on-windows.ps1 -Folder C:\tidegate -Cycle 50
.EXAMPLE
.\on-windows.ps1 -Folder C:\tidegate -Traffic
#>
[CmdletBinding()]
param(
    # Where tidegate.sys, tidegate.inf and tidegate.exe lie.
    [Parameter(Mandatory)] [string] $Folder,
    # Make a certificate for tests, trust it on this machine, and sign the driver and its catalogue with it.
    [switch] $Sign,
    # Check the INF, and put the package into the driver store.
    [switch] $Install,
    # Have Driver Verifier watch the driver from the next restart on.
    [switch] $Verifier,
    # Start the driver, ask it for its version, and stop it, so many times.
    [int] $Cycle = 0,
    # Load the policies (http_hdr_rewrite.o, tls_sni_allow.o and dns_filter.o in -Folder) and send real traffic through them.
    [switch] $Traffic,
    # Take the package away again, and end Driver Verifier's watch.
    [switch] $Uninstall
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$Service = 'tidegate'
$Subject = 'CN=Tidegate test signing'
$Folder = (Resolve-Path $Folder).Path
$Driver = Join-Path $Folder "$Service.sys"
$Inf = Join-Path $Folder "$Service.inf"
$Loader = Join-Path $Folder "$Service.exe"

$principal = [Security.Principal.WindowsPrincipal]::new([Security.Principal.WindowsIdentity]::GetCurrent())
if (-not $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
    throw 'Run this in an elevated PowerShell.'
}

# Runs a program; its exit code must be one of those that mean success.
function Invoke-Step([string] $What, [string] $Program, [string[]] $Arguments, [int[]] $Good = @(0)) {
    & $Program @Arguments
    $code = $LASTEXITCODE
    if ($Good -notcontains $code) { throw "$What failed: $Program exited with $code" }
    Write-Host "ok   $What"
}

# A tool of the newest Windows kit on this machine.
function Find-KitTool([string] $Name) {
    $root = Join-Path ${env:ProgramFiles(x86)} 'Windows Kits\10'
    $tool = Get-ChildItem -Path $root -Filter $Name -Recurse -ErrorAction SilentlyContinue |
        Where-Object { $_.FullName -match '\\(x64|x86)\\' } |
        Sort-Object FullName -Descending | Select-Object -First 1
    if (-not $tool) { throw "$Name was not found below $root. Install the Windows Driver Kit." }
    $tool.FullName
}

# The names that the driver store gave our package (oemN.inf).
function Get-PublishedName {
    Get-WindowsDriver -Online |
        Where-Object { $_.OriginalFileName -like "*\$Service.inf" } |
        ForEach-Object { $_.Driver }
}

function Stop-Driver {
    $running = Get-CimInstance Win32_SystemDriver -Filter "Name='$Service'"
    if ($running -and $running.State -ne 'Stopped') {
        Invoke-Step 'stop' 'sc.exe' @('stop', $Service)
        # `stop` returns while the driver still waits for its injections.
        for ($i = 0; $i -lt 300; $i++) {
            if ((Get-CimInstance Win32_SystemDriver -Filter "Name='$Service'").State -eq 'Stopped') { return }
            Start-Sleep -Milliseconds 100
        }
        throw 'The driver has not stopped within 30 seconds.'
    }
}

if ($Sign) {
    $certificate = Get-ChildItem Cert:\LocalMachine\My | Where-Object { $_.Subject -eq $Subject } | Select-Object -First 1
    if (-not $certificate) {
        $certificate = New-SelfSignedCertificate -Type CodeSigningCert -Subject $Subject `
            -CertStoreLocation Cert:\LocalMachine\My -HashAlgorithm SHA256 -NotAfter (Get-Date).AddYears(1)
    }
    $file = Join-Path $Folder 'test-signing.cer'
    Export-Certificate -Cert $certificate -FilePath $file | Out-Null
    foreach ($store in 'Root', 'TrustedPublisher') {
        Import-Certificate -FilePath $file -CertStoreLocation "Cert:\LocalMachine\$store" | Out-Null
    }
    $signtool = Find-KitTool 'signtool.exe'
    $arguments = @('sign', '/sm', '/s', 'My', '/sha1', $certificate.Thumbprint, '/fd', 'SHA256')
    Invoke-Step 'sign the image' $signtool ($arguments + $Driver)
    # The catalogue covers the signed image.
    Invoke-Step 'make the catalogue' (Find-KitTool 'inf2cat.exe') @("/driver:$Folder", '/os:10_X64', '/uselocaltime')
    Invoke-Step 'sign the catalogue' $signtool ($arguments + (Join-Path $Folder "$Service.cat"))
}

if ($Install) {
    Invoke-Step 'infverif' (Find-KitTool 'infverif.exe') @('/w', '/v', $Inf)
    # 3010: done, a restart is asked for. 259: there was nothing to do.
    Invoke-Step 'install' 'pnputil.exe' @('/add-driver', $Inf, '/install') @(0, 259, 3010)
    Invoke-Step 'the service is there' 'sc.exe' @('qc', $Service)
}

if ($Verifier) {
    Invoke-Step 'Driver Verifier' 'verifier.exe' @('/standard', '/driver', "$Service.sys") @(0, 2)
    Write-Host 'Restart this machine; then run -Cycle.'
}

for ($round = 1; $round -le $Cycle; $round++) {
    # It waits until the filters stand, and fails when they do not.
    Invoke-Step "start $round" $Loader @('driver', 'start')
    Stop-Driver
}
if ($Cycle -gt 0) { Write-Host "ok   $Cycle rounds of start and stop" }

# What a listener at a port of this machine was sent, as text, while $Act ran. Nothing is answered: the client gives up.
function Get-Sent([int] $Port, [scriptblock] $Act) {
    $listener = [Net.Sockets.TcpListener]::new([Net.IPAddress]::Loopback, $Port)
    $listener.Start()
    try {
        & $Act | Out-Null
        if (-not $listener.Pending()) { return '' }
        $client = $listener.AcceptTcpClient()
        try {
            $bytes = New-Object byte[] 65536
            $count = $client.GetStream().Read($bytes, 0, $bytes.Length)
            return [Text.Encoding]::ASCII.GetString($bytes, 0, $count)
        } catch [IO.IOException] {
            return '' # Reset.
        } finally {
            $client.Close()
        }
    } finally {
        $listener.Stop()
    }
}

# Whether a DNS query for a name reaches a server at this machine.
function Test-Query([string] $Name) {
    $server = [Net.Sockets.UdpClient]::new([Net.IPEndPoint]::new([Net.IPAddress]::Loopback, 53))
    try {
        Resolve-DnsName -Name $Name -Type A -Server 127.0.0.1 -DnsOnly -QuickTimeout -ErrorAction SilentlyContinue | Out-Null
        return $server.Available -gt 0
    } finally {
        $server.Close()
    }
}

function Assert-That([string] $What, [bool] $Holds) {
    if (-not $Holds) { throw "FAIL $What" }
    Write-Host "ok   $What"
}

if ($Traffic) {
    $policies = @{
        'http_hdr_rewrite.o' = 'header.0=X-Via: tidegate'
        'tls_sni_allow.o'    = 'allowed.example.com=1'
        'dns_filter.o'       = "rules.blocked.example=['u32:1', 'str:']"
    }
    Invoke-Step 'start' $Loader @('driver', 'start')
    foreach ($policy in $policies.Keys) {
        $object = Join-Path $Folder $policy
        Invoke-Step "load $policy" $Loader @('prog', 'load', $object, '--map', $policies[$policy], '--attach')
    }
    $request = Get-Sent 80 { curl.exe --silent --max-time 2 http://127.0.0.1/ }
    Assert-That 'a request over HTTP gets the header' ($request -match "`r`nX-Via: tidegate`r`n")
    $hello = Get-Sent 443 { curl.exe --silent --max-time 2 --resolve www.example.com:443:127.0.0.1 https://www.example.com/ }
    Assert-That 'a name on the list passes' ($hello.Length -gt 0)
    $hello = Get-Sent 443 { curl.exe --silent --max-time 2 --resolve www.example.org:443:127.0.0.1 https://www.example.org/ }
    Assert-That 'a name that is not on the list is refused' ($hello.Length -eq 0)
    Assert-That 'a query passes' (Test-Query 'www.example.com')
    Assert-That 'a blocked query does not' (-not (Test-Query 'www.blocked.example'))
    Invoke-Step 'what was counted' $Loader @('link', 'show')
    # It stops with connections that have just ended; programs, maps and links go with it.
    Stop-Driver
}

if ($Uninstall) {
    Stop-Driver
    foreach ($name in Get-PublishedName) {
        Invoke-Step "remove $name" 'pnputil.exe' @('/delete-driver', $name, '/uninstall') @(0, 3010)
    }
    Invoke-Step 'end of Driver Verifier' 'verifier.exe' @('/reset') @(0, 2)
}
